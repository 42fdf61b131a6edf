"""A session as Markdown, for people."""

from collections.abc import Iterator
from datetime import UTC, datetime

from gemma_mcp.server.sessions.store import Session, Summary
from gemma_mcp.wire import ChatMessage, ImagePart

__all__ = ["transcript"]

SPEAKERS = {"user": "User", "assistant": "Gemma"}


def transcript(session: Session, summary: Summary) -> str:
    """The whole conversation. Images are named, not shown."""
    return "\n\n".join(_blocks(session, summary)) + "\n"


def _blocks(session: Session, summary: Summary) -> Iterator[str]:
    turns = f"{session.turns} turn{'' if session.turns == 1 else 's'}"
    yield f"# Session {session.name}"
    yield f"{turns} with {session.answered_by}, started {_date(summary.created)}, last used {_date(summary.used)}."
    if session.system:
        yield f"## System\n\n{session.system}"
    for message in session.messages:
        yield f"## {SPEAKERS.get(message.role, message.role)}\n\n{_text(message)}"


def _text(message: ChatMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n\n".join(_image(part) if isinstance(part, ImagePart) else part.text for part in message.content)


def _image(part: ImagePart) -> str:
    kind = part.image_url.url.partition(";")[0].removeprefix("data:")
    return f"[{kind}, {len(part.image_url.url) * 3 // 4:,} bytes]"


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
