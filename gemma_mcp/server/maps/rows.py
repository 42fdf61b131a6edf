"""One result as it stands in a file of results, and in the cache."""

import json
import re
from typing import Literal, NoReturn

import msgspec

from gemma_mcp.errors import GemmaError, InputRefusedError, InvalidReplyError
from gemma_mcp.server.maps.records import Record
from gemma_mcp.server.replies import Reply

__all__ = ["Row", "Status", "answered", "copied", "unanswered"]

Status = Literal["ok", "failed", "refused"]

HALF = re.compile(r"\\u[dD][89a-fA-F]")
LONE = re.compile(r"[\ud800-\udfff]")
"""Half of a surrogate pair, written out in JSON and as it is read from there: no text, so it is replaced."""

LONGEST_REASON = 500
"""Characters; an error may quote much of a reply."""


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of a file of results: what it is about, what came of it, who answered and at what cost.

    `job` comes first: by it a file is known. `result` is a text, or with a schema the JSON value; `reason` says why
    there is none. `cached` ones were computed by an earlier call, or for an equal text of this one; their tokens and
    seconds are what they cost then.
    """

    job: str
    key: str
    path: str
    lines: str = ""
    status: Status
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    reason: str = ""
    finish_reason: str = ""
    notes: tuple[str, ...] = ()
    model: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cached: bool = False

    @property
    def text(self) -> str:
        """The result for people, on one line."""
        if isinstance(self.result, msgspec.UnsetType):
            return ""
        value = bytes(self.result).decode("utf-8", "replace")
        if value.startswith('"'):
            value = str(json.loads(value))
        return " ".join(value.split())


def answered(job: str, record: Record, reply: Reply, *, as_json: bool) -> Row:
    """The row of a reply. Raises InvalidReplyError for one that should be JSON and is not."""
    usage = reply.usage
    details = usage.prompt_tokens_details if usage else None
    return Row(
        job=job,
        key=record.key,
        path=record.path,
        lines=record.part.lines,
        status="ok",
        result=_json_of(reply.text) if as_json else msgspec.Raw(_text(reply.text)),
        finish_reason=reply.finish_reason,
        notes=reply.notes,
        model=reply.card.model,
        prompt_tokens=usage.prompt_tokens if usage else 0,
        cached_tokens=details.cached_tokens if details else 0,
        completion_tokens=usage.completion_tokens if usage else 0,
        seconds=round(reply.seconds, 3),
    )


def unanswered(job: str, record: Record, error: GemmaError) -> Row:
    """The row of a record without a result. What was not even asked is refused, the rest has failed."""
    refused = isinstance(error, InputRefusedError)
    reason = f"{error.why[:1].upper()}{error.why[1:]}. {error.hint}".strip() if refused else str(error)
    return Row(
        job=job,
        key=record.key,
        path=record.path,
        lines=record.part.lines,
        status="refused" if refused else "failed",
        reason=reason[:LONGEST_REASON],
    )


def copied(row: Row, job: str, record: Record) -> Row:
    """The same result for the same question, asked elsewhere."""
    return msgspec.structs.replace(row, job=job, path=record.path, lines=record.part.lines, cached=True)


def _text(text: str) -> bytes:
    return msgspec.json.encode(text.encode("utf-8", "replace").decode("utf-8"))


def _json_of(text: str) -> msgspec.Raw:
    """The JSON of a reply as it stands, but on one line: inside its texts there are no bare line ends."""
    try:
        value: object = json.loads(text, parse_constant=_refuse_constant)
        line = text.replace("\n", " ").replace("\r", " ").strip()
        if HALF.search(line):
            line = LONE.sub("\ufffd", json.dumps(value, ensure_ascii=False, allow_nan=False))
        return msgspec.json.decode(line.encode(), type=msgspec.Raw)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise InvalidReplyError("The reply is not JSON.", "Simplify the schema, or use a larger model.") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
