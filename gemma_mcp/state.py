"""How a server finds the user's engine and learns that it is really that one: state file, locks, handshake, status.

The state file holds the engine's token, so it is readable by the user alone: mode 0600 on POSIX; on Windows the
platform's per-user folders carry an access list that says the same. A file that others could have written is not
believed: it would lead prompts to them.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
import sys
from pathlib import Path

import msgspec

from gemma_mcp.errors import ConfigError
from gemma_mcp.places import HOME_VARIABLE, Places
from gemma_mcp.settings import Settings

__all__ = [
    "ENGINE_SECTIONS",
    "NONCE_CHARACTERS",
    "EngineState",
    "EngineStatus",
    "Health",
    "LoadedStatus",
    "engine_lock_path",
    "fingerprint",
    "make_private",
    "make_private_file",
    "new_nonce",
    "private_folder",
    "proof",
    "read_state",
    "remove_state",
    "start_lock_path",
    "state_path",
    "unusable",
    "write_private",
    "write_state",
]

ENGINE_SECTIONS = ("model", "engine", "backend", "llamacpp")
"""The sections of the settings that change what an engine does; the others are each server's own."""

OTHERS = stat.S_IRWXG | stat.S_IRWXO
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""A fifo in the state file's place must not block us."""
MOST_BYTES = 1 << 16
"""A state file has some hundred bytes."""

NONCE_CHARACTERS = range(16, 129)
"""How long a handshake's nonce may be."""


class EngineState(msgspec.Struct, frozen=True, kw_only=True):
    """What a running engine says of itself. `started`: seconds since the epoch."""

    pid: int
    port: int
    token: str
    wire_version: int
    version: str
    fingerprint: str
    started: float

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The reply of `/health`: nothing that a stranger may not know. `proof` answers a nonce."""

    status: str
    version: str
    wire_version: int
    proof: str | None = None


class LoadedStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is in memory, or on its way there (then `loading` says how far, 0 to 1).

    `context_length`: tokens that one request may use, 0 while that is not known. `fit`: how it was fitted to memory.
    """

    model: str
    runtime: str = ""
    device: str = ""
    loading: float | None = None
    running: int = 0
    waiting: int = 0
    size_bytes: int = 0
    context_length: int = 0
    images: bool = False
    fim: bool = False
    fit: str = ""


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The reply of `/status`. `started`: seconds since the epoch. `same_settings` is filled in by whoever asks."""

    pid: int
    port: int
    version: str
    wire_version: int
    fingerprint: str
    started: float
    models: tuple[LoadedStatus, ...] = ()
    same_settings: bool = True


def state_path(places: Places) -> Path:
    """The state file."""
    return places.state / "engine.json"


def engine_lock_path(places: Places) -> Path:
    """Locked by the engine as long as it takes requests."""
    return places.state / "engine.lock"


def start_lock_path(places: Places) -> Path:
    """Locked by whoever is starting or replacing the engine."""
    return places.state / "start.lock"


def make_private(folder: Path) -> Path:
    """Make the folder if need be, readable by the user alone. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def make_private_file(path: Path) -> None:
    """Make a file and its folder if need be, readable by the user alone, as one that exists becomes. Raises OSError.

    On Windows the user's folders have an access list that says the same.
    """
    make_private(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.name != "nt" and os.fstat(descriptor).st_mode & 0o077:
            path.chmod(0o600)
    finally:
        os.close(descriptor)


def private_folder(folder: Path) -> Path:
    """The same. Raises ConfigError when it cannot be, or is another's."""
    try:
        status = make_private(folder).stat()
        if not _is_ours(status):
            raise unusable(folder, "it belongs to another user")
        if status.st_mode & OTHERS_WRITE and os.name != "nt":
            folder.chmod(0o700)
    except OSError as error:
        raise unusable(folder, error) from error
    return folder


def unusable(path: Path, why: OSError | str) -> ConfigError:
    """The error for a file or folder of ours that cannot be used."""
    reason = why if isinstance(why, str) else f"it cannot be used ({(why.strerror or str(why)).lower()})"
    hint = f"Make room or put its permissions right, or let {HOME_VARIABLE} name another folder."
    return ConfigError("files", str(path), reason, hint)


def write_state(places: Places, state: EngineState) -> None:
    """Write the state file. Raises ConfigError when it cannot be written."""
    write_private(state_path(places), msgspec.json.encode(state))


def write_private(path: Path, data: bytes) -> None:
    """Write a file of the user alone in one go: a reader sees the old one or the new one. Raises ConfigError."""
    draft = private_folder(path.parent) / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            if not _is_private(os.fstat(descriptor)):
                raise unusable(path.parent, "its file system keeps no permissions")
            file.write(data)
        draft.replace(path)
    except OSError as error:
        raise unusable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def read_state(places: Places, *, trusted: bool = True) -> EngineState | None:
    """What the state file says; None when there is none, it makes no sense, or others could have written it.

    `trusted=False` reads it all the same: to tell the user, and never to send anything where it leads.
    """
    try:
        descriptor = os.open(state_path(places), READ_FLAGS)
        with os.fdopen(descriptor, "rb") as file:
            if trusted and not _is_private(os.fstat(descriptor)):
                return None
            return msgspec.json.decode(file.read(MOST_BYTES), type=EngineState)
    except (OSError, ValueError):
        return None


def _is_ours(status: os.stat_result) -> bool:
    return sys.platform == "win32" or status.st_uid == os.geteuid()


def _is_private(status: os.stat_result) -> bool:
    """A file of this user that nobody else can read or write."""
    if sys.platform == "win32":
        return True
    return stat.S_ISREG(status.st_mode) and _is_ours(status) and not status.st_mode & OTHERS


def remove_state(places: Places, token: str) -> None:
    """Remove the state file if it is still that engine's."""
    state = read_state(places)
    if state is not None and state.token == token:
        with contextlib.suppress(OSError):
            state_path(places).unlink()


def new_nonce() -> str:
    """A question for the handshake."""
    return secrets.token_hex(32)


def proof(token: str, nonce: str) -> str:
    """The answer that only a holder of the token can give; it tells nothing about the token."""
    return hmac.new(token.encode(), b"gemma-mcp engine " + nonce.encode(), hashlib.sha256).hexdigest()


def fingerprint(settings: Settings, version: str, interpreter: str = sys.executable) -> str:
    """Differs between engines that would behave differently: settings, release, interpreter."""
    sections = {name: getattr(settings, name).model_dump(mode="json") for name in ENGINE_SECTIONS}
    text = msgspec.json.encode([sections, version, interpreter], order="sorted")
    return hashlib.sha256(text).hexdigest()[:16]
