"""What a tool gives back: the answer alone, one line on where it came from, and the rest where only programs look."""

from collections.abc import Sequence

from mcp.types import CallToolResult, ContentBlock, TextContent
from pydantic import PrivateAttr

from gemma_mcp.server.ledger import Outcome
from gemma_mcp.server.replies import Reply

__all__ = ["META_KEY", "ToolResult", "outcome_of", "result_of"]

META_KEY = "gemma-mcp"
"""Where `_meta` holds usage, timings and the like."""

CUT = {
    "length": "length (cut off at max_tokens)",
    "deadline": "deadline (cut off by max_seconds)",
}


class ToolResult(CallToolResult):
    """A result that knows what was read for it, and which model read it. That stays in this process."""

    _read: tuple[str, ...] = PrivateAttr(default=())
    _asked: str = PrivateAttr(default="")
    _model: str = PrivateAttr(default="")

    def remember(self, read: Sequence[str], asked: str, model: str) -> None:
        """Take down the texts that were read, the name by which the model was asked, and its own."""
        self._read, self._asked, self._model = tuple(read), asked, model

    @property
    def outcome(self) -> Outcome:
        """What the ledger takes down of it."""
        return Outcome(_texts(self), self._read, self._asked, self._model)


def outcome_of(result: CallToolResult) -> Outcome:
    """What the ledger takes down of any result."""
    return result.outcome if isinstance(result, ToolResult) else Outcome(_texts(result))


def _texts(result: CallToolResult) -> tuple[str, ...]:
    return tuple(block.text for block in result.content if isinstance(block, TextContent))


def result_of(reply: Reply, *, notes: tuple[str, ...] = (), session: str = "", read: Sequence[str] = ()) -> ToolResult:
    """The tool result of a reply. `notes` say what was cut or changed on the way in; `read` are the texts that were
    taken from files into the prompt, as the model got them.
    """
    line = _provenance(reply, (*notes, *reply.notes), session)
    content: list[ContentBlock] = [TextContent(type="text", text=reply.text), TextContent(type="text", text=line)]
    result = ToolResult(content=content, _meta={META_KEY: _details(reply, session)})
    result.remember(read, reply.asked, reply.card.model)
    return result


def _provenance(reply: Reply, notes: tuple[str, ...], session: str) -> str:
    card = reply.card
    parts = [card.model, card.device]
    parts.append(CUT.get(reply.finish_reason, reply.finish_reason))
    parts.append(_tokens(reply))
    parts.append(f"{reply.seconds:.1f} s")
    parts.append(f"session {session}" if session else "")
    parts.extend(notes)
    parts.append(card.notice)
    return "[" + " · ".join(" ".join(part.split()) for part in parts if part.strip()) + "]"


def _tokens(reply: Reply) -> str:
    usage = reply.usage
    if usage is None:
        return ""
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
    return f"{usage.prompt_tokens:,} prompt ({cached:,} cached) + {usage.completion_tokens:,} completion tokens"


def _details(reply: Reply, session: str) -> dict[str, object]:
    details: dict[str, object] = {
        "model": reply.card.model_dump(mode="json", exclude={"notice"}),
        "finish_reason": reply.finish_reason,
        "seconds": round(reply.seconds, 3),
    }
    if reply.usage is not None:
        details["usage"] = reply.usage.model_dump(mode="json", exclude_none=True)
    if reply.timings is not None:
        details["timings"] = reply.timings.model_dump(mode="json", exclude_none=True)
    if session:
        details["session"] = session
    return {**details, **reply.extra}
