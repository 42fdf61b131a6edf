"""How a server finds the user's engine and learns that it is really that one: state file, locks, handshake, status.

The state file holds the engine's token, so it is readable by the user alone: mode 0600 on POSIX; on Windows the
platform's per-user folders carry an access list that says the same.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import sys
from pathlib import Path

import msgspec

from gemma_mcp.places import Places
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
    "new_nonce",
    "private_folder",
    "proof",
    "read_state",
    "remove_state",
    "start_lock_path",
    "state_path",
    "write_state",
]

ENGINE_SECTIONS = ("model", "engine", "backend", "llamacpp")
"""The sections of the settings that change what an engine does; the others are each server's own."""

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

    `context_length`: tokens that one request may use, 0 while that is not known.
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


def private_folder(folder: Path) -> Path:
    """Make the folder if need be, readable by the user alone."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def write_state(places: Places, state: EngineState) -> None:
    """Write the state file in one go: a reader sees the old one or the new one."""
    path = state_path(places)
    draft = private_folder(path.parent) / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(state))
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def read_state(places: Places) -> EngineState | None:
    """What the state file says; None when there is none or it makes no sense."""
    try:
        return msgspec.json.decode(state_path(places).read_bytes(), type=EngineState)
    except (OSError, ValueError):
        return None


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
