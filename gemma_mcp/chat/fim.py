"""Fill-in-the-middle prompts, for models that were trained for them (CodeGemma, the starter)."""

from gemma_mcp.types import Control, FimTokens, Segment, Text

__all__ = ["fim_segments"]


def fim_segments(fim: FimTokens, prefix: str, suffix: str) -> tuple[Segment, ...]:
    """Prefix, suffix, middle: the order that CodeGemma was trained with, without any space around the markers.

    Line ends are made LF, since CRLF breaks fill-in-the-middle (the models saw none). Whoever inserts the reply puts
    the file's own back.
    """
    segments = (
        Control(fim.prefix),
        Text(prefix.replace("\r\n", "\n")),
        Control(fim.suffix),
        Text(suffix.replace("\r\n", "\n")),
        Control(fim.middle),
    )
    return tuple(segment for segment in segments if segment.text)
