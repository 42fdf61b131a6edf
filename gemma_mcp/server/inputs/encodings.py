"""From bytes to text: a byte order mark, else UTF-8, else a guess that is told; what is no text is refused."""

import codecs
from dataclasses import dataclass

from gemma_mcp.errors import InputRefusedError

__all__ = ["Decoded", "decode_lossy", "decode_text"]

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
BINARY = frozenset(range(32)) - frozenset(b"\t\n\v\f\r\b\x1b")
"""Control characters that no text has; terminals' logs have backspace and escape."""

SAMPLE_BYTES = 65_536
"""What an encoding is guessed from; guessing takes seconds for megabytes."""

WESTERN = "cp1252"
LATIN = (WESTERN, "cp1250", "cp1254", "cp1257", "cp850")
"""Among Latin alphabets that fit equally well the western one is taken: it is the commonest by far."""

CANDIDATES = (
    *LATIN, "cp1251", "cp1253", "cp1255", "cp1256", "koi8_r", "cp866", "cp932", "euc_jp", "gb18030", "big5", "cp949",
)  # fmt: skip
"""What editors and programs really wrote; exotic encodings fit short texts by chance."""

HINT = "Convert it to UTF-8 if it is text."


@dataclass(frozen=True)
class Decoded:
    """Text, and the encoding if it had to be guessed."""

    text: str
    guessed: str = ""


def decode_text(shown: str, data: bytes) -> Decoded:
    """The text of a file. Raises InputRefusedError for what is none, or in no encoding that can be told."""
    mark, encoding = next(((mark, name) for mark, name in MARKS if data.startswith(mark)), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError:
        if mark:
            raise InputRefusedError(shown, "it is not a text file", HINT) from None
        return _guess(shown, data)
    if "\0" in text:
        raise InputRefusedError(shown, "it is not a text file", HINT)
    return Decoded(text)


def decode_lossy(data: bytes) -> Decoded:
    """Text out of several files, such as a diff: what is not UTF-8 in it is replaced, and `guessed` says so."""
    text = data.decode("utf-8", "replace").replace("\0", "\ufffd")
    return Decoded(text, "" if text.encode() == data else "UTF-8 with replaced bytes")


def _guess(shown: str, data: bytes) -> Decoded:
    if not BINARY.isdisjoint(data):
        raise InputRefusedError(shown, "it is not a text file", HINT)
    name = _likeliest(data[:SAMPLE_BYTES])
    try:
        return Decoded(data.decode(name), name)
    except (LookupError, UnicodeDecodeError):
        raise InputRefusedError(
            shown, "it is not a text file in UTF-8, and its encoding cannot be told", HINT
        ) from None


def _likeliest(sample: bytes) -> str:
    """A codec's name, or "" (which is none)."""
    from charset_normalizer import from_bytes

    matches = list(from_bytes(sample, cp_isolation=list(CANDIDATES)))
    if not matches:
        return ""
    best = matches[0]
    equals = {name for match in matches if match.chaos == best.chaos for name in match.could_be_from_charset}
    return WESTERN if best.encoding in LATIN and WESTERN in equals else best.encoding
