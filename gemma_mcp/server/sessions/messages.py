"""Messages as rows. A message is known by the hash of what it says and of the one before it, an image by its own.

So a longer conversation adds rows and changes none, and conversations with the same beginning share it.
"""

import base64
import binascii
import hashlib
import json
import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from gemma_mcp.wire import ChatMessage, GeneratedTokens, ImagePart, ImageUrl, TextPart

if TYPE_CHECKING:
    import sqlite3

__all__ = ["chain", "collect", "insert", "messages_of"]

CHAIN = """
    WITH RECURSIVE line (id, depth) AS (
        SELECT ?, 0
        UNION ALL
        SELECT message.parent, depth + 1 FROM line JOIN message USING (id) WHERE message.parent IS NOT NULL
    )
    SELECT message.id, parent, role, content, ids, vocabulary FROM line JOIN message USING (id) ORDER BY depth DESC
"""

Row = tuple[str, str | None, str, str, bytes | None, str | None]


def insert(db: "sqlite3.Connection", parent: str | None, messages: Sequence[ChatMessage]) -> str | None:
    """Add messages behind `parent`, those that are not there yet. Returns the id of the last one."""
    for message in messages:
        parent = _insert(db, parent, message)
    return parent


def _insert(db: "sqlite3.Connection", parent: str | None, message: ChatMessage) -> str:
    images: dict[str, int] = {}
    content = json.dumps(_packed(db, message, images))
    ids, vocabulary = _packed_tokens(message.tokens)
    text = json.dumps([parent, message.role, content, ids.hex() if ids else None, vocabulary])
    identity = hashlib.sha256(text.encode()).hexdigest()
    size = len(content) + len(ids or b"") + sum(images.values())
    before = db.execute("SELECT total_bytes FROM message WHERE id = ?", (parent,)).fetchone() if parent else (0,)
    db.execute(
        "INSERT OR IGNORE INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (identity, parent, message.role, content, ids, vocabulary, size, before[0] + size),
    )
    links = [(identity, digest) for digest in images]
    db.executemany("INSERT OR IGNORE INTO message_image VALUES (?, ?)", links)
    return identity


def _packed(db: "sqlite3.Connection", message: ChatMessage, images: dict[str, int]) -> str | list[dict[str, str]]:
    if isinstance(message.content, str):
        return message.content
    parts: list[dict[str, str]] = []
    for part in message.content:
        if isinstance(part, TextPart):
            parts.append({"text": part.text})
            continue
        digest, size = _insert_image(db, part.image_url.url)
        images[digest] = size
        parts.append({"image": digest, "detail": part.image_url.detail})
    return parts


def _insert_image(db: "sqlite3.Connection", url: str) -> tuple[str, int]:
    """Bytes, not base64, unless the URI would not come back as it was."""
    head, comma, encoded = url.partition(",")
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if base64.b64encode(data).decode() != encoded:
        head, comma, data = "", "", url.encode()
    digest = hashlib.sha256(head.encode() + b"\0" + data).hexdigest()
    db.execute("INSERT OR IGNORE INTO image VALUES (?, ?, ?)", (digest, head + comma, data))
    return digest, len(data)


def _packed_tokens(tokens: GeneratedTokens | None) -> tuple[bytes | None, str | None]:
    if tokens is None:
        return None, None
    return _little_endian(array("i", tokens.ids)).tobytes(), tokens.vocabulary


def _little_endian(ids: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        ids.byteswap()
    return ids


def chain(db: "sqlite3.Connection", head: str) -> list[Row]:
    """The rows from the first message to `head`. Raises ValueError when one of them is missing."""
    rows: list[Row] = db.execute(CHAIN, (head,)).fetchall()
    if not rows or rows[0][1] is not None:
        raise ValueError("a message is missing")
    return rows


def messages_of(db: "sqlite3.Connection", rows: Sequence[Row]) -> tuple[ChatMessage, ...]:
    """The messages that the rows hold. Raises ValueError or KeyError for what makes no sense."""
    return tuple(_message(db, row) for row in rows)


def _message(db: "sqlite3.Connection", row: Row) -> ChatMessage:
    _, _, role, packed, ids, vocabulary = row
    content = json.loads(packed)
    if not isinstance(content, str):
        content = tuple(_parts(db, content))
    tokens = None
    if ids is not None and vocabulary is not None:
        loaded = _little_endian(array("i", ids))
        tokens = GeneratedTokens(ids=tuple(loaded), vocabulary=vocabulary)
    return ChatMessage(role=cast("Any", role), content=content, tokens=tokens)


def _parts(db: "sqlite3.Connection", packed: list[dict[str, str]]) -> Iterator[TextPart | ImagePart]:
    for part in packed:
        if "text" in part:
            yield TextPart(text=part["text"])
            continue
        found = db.execute("SELECT head, data FROM image WHERE digest = ?", (part["image"],)).fetchone()
        if found is None:
            raise ValueError("an image is missing")
        head, data = found
        url = head + base64.b64encode(data).decode() if head else data.decode()
        detail = cast("Literal['auto', 'low', 'high']", part["detail"])
        yield ImagePart(image_url=ImageUrl(url=url, detail=detail))


def collect(db: "sqlite3.Connection", head: str | None) -> None:
    """Delete messages from `head` backwards, up to the first that another session or another branch still needs."""
    while head is not None and not _needed(db, head):
        (parent,) = db.execute("DELETE FROM message WHERE id = ? RETURNING parent", (head,)).fetchone() or (None,)
        head = parent
    db.execute("DELETE FROM image WHERE digest NOT IN (SELECT image FROM message_image)")


def _needed(db: "sqlite3.Connection", identity: str) -> bool:
    by = "SELECT 1 FROM session WHERE head = :id UNION ALL SELECT 1 FROM message WHERE parent = :id LIMIT 1"
    return db.execute(by, {"id": identity}).fetchone() is not None
