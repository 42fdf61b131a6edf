"""Stores of sessions for tests, and what is said in them."""

import sqlite3
from pathlib import Path

from gemma_mcp.server.sessions import Limits, Session, SessionStore
from gemma_mcp.wire import ChatMessage, GeneratedTokens, ImagePart, ImageUrl, TextPart

WIDE = Limits(keep_seconds=0, max_bytes=1_000_000_000, max_sessions=1000)

PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def user(text: str, *images: str) -> ChatMessage:
    if not images:
        return ChatMessage(role="user", content=text)
    parts = tuple(ImagePart(image_url=ImageUrl(url=image, detail="low")) for image in images)
    return ChatMessage(role="user", content=(*parts, TextPart(text=text)))


def answer(text: str, *ids: int) -> ChatMessage:
    tokens = GeneratedTokens(ids=ids, vocabulary="v") if ids else None
    return ChatMessage(role="assistant", content=text, tokens=tokens)


def say(store: SessionStore, session: Session, text: str, *images: str, reply: str = "fine", ids: int = 0) -> Session:
    """One more turn of the session."""
    messages = (user(text, *images), answer(reply, *range(ids)))
    return store.append(session, messages, system=session.system, model=session.model, answered_by="echo")


def texts(session: Session) -> list[object]:
    return [message.content for message in session.messages]


def database(store: SessionStore) -> Path:
    return store.folder / "sessions.db"


def rows(store: SessionStore, table: str) -> int:
    db = sqlite3.connect(database(store))
    try:
        return db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    finally:
        db.close()


def sound(store: SessionStore) -> None:
    """The file is whole, and holds nothing that no session needs."""
    db = sqlite3.connect(database(store))
    try:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        needed = """WITH RECURSIVE line (id) AS (
            SELECT head FROM session UNION SELECT parent FROM line JOIN message USING (id) WHERE parent IS NOT NULL
        ) SELECT count(*) FROM message WHERE id NOT IN (SELECT id FROM line)"""
        assert db.execute(needed).fetchone() == (0,)
        assert db.execute(
            "SELECT count(*) FROM image WHERE digest NOT IN (SELECT image FROM message_image)"
        ).fetchone() == (0,)
    finally:
        db.close()
