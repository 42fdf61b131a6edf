"""The error tree. A message says what happened, a hint says what to do; every error survives a trip over a socket.

An error keeps the arguments that it was made from in `fields`, so `describe` and `restore` carry it, class and all,
from a worker to the engine and from the engine to a server. The text is composed once, in the class, never matched on.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

__all__ = [
    "BackendError",
    "BackendMissingError",
    "CapacityError",
    "ConfigError",
    "ContextOverflowError",
    "DeadlineError",
    "FilesOverflowError",
    "GemmaError",
    "InputRefusedError",
    "InvalidReplyError",
    "LoadFailedError",
    "ModelTooLargeError",
    "OutOfMemoryError",
    "QueueFullError",
    "RemoteError",
    "RequestError",
    "SessionChangedError",
    "SessionStoreError",
    "StepFailedError",
    "UnknownModelError",
    "UnknownSessionError",
    "UnsupportedError",
    "WorkerDiedError",
    "as_clause",
    "describe",
    "restore",
]

Field = str | int | float | bool | list[str] | None


class GemmaError(Exception):
    """What happened, and in `hint` what to do about it."""

    status: ClassVar[int] = 500
    """The HTTP status under which the engine reports this error."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields: dict[str, Field] = {"message": message, "hint": hint}

    def __str__(self) -> str:
        """On one line: what a caller sent, such as a path, must not look like further lines of ours."""
        return "".join(map(_printable, f"{self.message} {self.hint}".strip()))


def _printable(letter: str) -> str:
    """Half of a surrogate pair, which no output takes, is written out; other signs that cannot be seen are replaced."""
    if letter.isprintable():
        return letter
    return f"\\u{ord(letter):04x}" if "\ud800" <= letter <= "\udfff" else "\ufffd"


class RequestError(GemmaError):
    """The caller can fix it."""

    status = 400


class UnknownModelError(RequestError):
    """No model of that name is known here."""

    status = 404

    def __init__(self, model: str, known: list[str]) -> None:
        super().__init__(f"There is no model {model!r} here.", f"Known models: {', '.join(known) or 'none'}.")
        self.model = model
        self.known = known
        self.fields = {"model": model, "known": known}


class UnknownSessionError(RequestError):
    """No conversation of that name exists."""

    status = 404

    def __init__(self, session: str) -> None:
        super().__init__(f"There is no session {session!r}.", "Leave `session` out to start a new one.")
        self.session = session
        self.fields = {"session": session}


class ContextOverflowError(RequestError):
    """Prompt and reply together do not fit the model's context."""

    def __init__(self, prompt_tokens: int, max_tokens: int, context_length: int) -> None:
        super().__init__(
            f"The prompt has {prompt_tokens} tokens and {max_tokens} are asked for, "
            f"but the context holds {context_length}.",
            "Shorten the input, lower max_tokens, or raise llamacpp.context in the configuration.",
        )
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.context_length = context_length
        self.fields = {
            "prompt_tokens": prompt_tokens,
            "max_tokens": max_tokens,
            "context_length": context_length,
        }


class FilesOverflowError(ContextOverflowError):
    """The same, and which of the files is the largest. `chunks`: whether the call could have asked for pieces."""

    def __init__(
        self,
        prompt_tokens: int,
        max_tokens: int,
        context_length: int,
        largest: str,
        largest_tokens: int,
        chunks: bool = False,
    ) -> None:
        super().__init__(prompt_tokens, max_tokens, context_length)
        pieces = ', set `overflow` to "chunk" to have them worked through in pieces' if chunks else ""
        self.message = (
            f"The prompt has {prompt_tokens:,} tokens, but with {max_tokens:,} tokens of reply the context of "
            f"{context_length:,} has room for {context_length - max_tokens:,}; the largest file is {largest} with "
            f"{largest_tokens:,} tokens."
        )
        self.hint = f"Name fewer files or lines of them ('server.log:1-400'){pieces}, or lower max_tokens."
        self.fields |= {"largest": largest, "largest_tokens": largest_tokens, "chunks": chunks}


class UnsupportedError(RequestError):
    """This model or backend cannot do what was asked."""


class InputRefusedError(RequestError):
    """A file, image or text that is not taken, and why."""

    def __init__(self, path: str, why: str, hint: str = "") -> None:
        super().__init__(f"{path}: {why}.", hint)
        self.path = path
        self.why = why
        self.fields = {"path": path, "why": why, "hint": hint}


class CapacityError(GemmaError):
    """The same request may succeed later."""

    status = 503


class QueueFullError(CapacityError):
    """As many requests wait as the engine allows."""

    status = 429

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} requests are waiting already.", "Try again in a moment.")
        self.limit = limit
        self.fields = {"limit": limit}


class OutOfMemoryError(CapacityError):
    """The device or the KV cache has no room."""


class ModelTooLargeError(OutOfMemoryError):
    """A model that was not loaded since it does not fit: what it needs, what is free, what would fit."""

    def __init__(self, model: str, needs: str, free: str, hint: str) -> None:
        super().__init__(f"The model {model!r} does not fit into memory: it needs {needs}; {free}.", hint)
        self.model = model
        self.fields = {"model": model, "needs": needs, "free": free, "hint": hint}


class DeadlineError(CapacityError):
    """Time was up before there was anything to give back."""

    status = 504


class SessionChangedError(CapacityError):
    """A session went on in another process, or was deleted, while a turn of it was computed."""

    status = 409

    def __init__(self, session: str) -> None:
        super().__init__(
            f"Session {session!r} went on elsewhere or was deleted during this turn, so the turn was not kept.",
            "Call again: it will follow what was said meanwhile.",
        )
        self.session = session
        self.fields = {"session": session}


class SessionStoreError(GemmaError):
    """The file that holds the sessions cannot be used, and why."""

    def __init__(self, path: str, why: str, hint: str = "") -> None:
        super().__init__(f"The session store {path} cannot be used: {why}.", hint)
        self.path = path
        self.why = why
        self.fields = {"path": path, "why": why, "hint": hint}


class BackendError(GemmaError):
    """The runtime's fault."""


class BackendMissingError(BackendError):
    """A runtime that is not installed, and the command that installs it."""

    def __init__(self, backend: str, command: str) -> None:
        super().__init__(f"The {backend} runtime is not installed.", f"Install it with: {command}")
        self.backend = backend
        self.command = command
        self.fields = {"backend": backend, "command": command}


class LoadFailedError(BackendError):
    """The runtime would not load the model."""

    def __init__(self, model: str, why: str, hint: str = "") -> None:
        super().__init__(f"The model {model!r} could not be loaded: {why}.", hint)
        self.model = model
        self.why = why
        self.fields = {"model": model, "why": why, "hint": hint}


class StepFailedError(BackendError):
    """A forward pass failed."""


class InvalidReplyError(BackendError):
    """The model's reply does not satisfy what was asked of it (for example its JSON schema)."""

    status = 502


class WorkerDiedError(BackendError):
    """The process that held the model ended."""


class RemoteError(BackendError):
    """An engine could not be reached, or said something that is not understood."""

    status = 502


class ConfigError(GemmaError):
    """A setting must be edited: where it stands, its key, what is wrong."""

    def __init__(self, origin: str, key: str, why: str, hint: str = "") -> None:
        super().__init__(f"{origin}: {key}: {why}.", hint)
        self.origin = origin
        self.key = key
        self.why = why
        self.fields = {"origin": origin, "key": key, "why": why, "hint": hint}


def _subclasses(cls: type[GemmaError]) -> dict[str, type[GemmaError]]:
    found = {cls.__name__: cls}
    for child in cls.__subclasses__():
        found |= _subclasses(child)
    return found


def describe(error: GemmaError) -> dict[str, object]:
    """The error as plain data: `kind`, `message`, `hint` and the `fields` that `restore` needs."""
    return {
        "kind": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "fields": dict(error.fields),
    }


def restore(data: Mapping[str, object]) -> GemmaError:
    """The error that `describe` wrote; a kind that is not known here becomes a RemoteError with the same text."""
    cls = _subclasses(GemmaError).get(str(data.get("kind")))
    fields = data.get("fields")
    if cls is not None and isinstance(fields, Mapping):
        try:
            return cls(**cast("Mapping[str, Any]", fields))
        except TypeError:
            pass  # the other side is of another version
    return RemoteError(str(data.get("message") or "The engine reported an error."), str(data.get("hint") or ""))


def as_clause(sentence: str) -> str:
    """What another library says, as the second half of one of our sentences. Abbreviations such as EOF stay as are."""
    return sentence if sentence[1:2].isupper() else sentence[:1].lower() + sentence[1:]
