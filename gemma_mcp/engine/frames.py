"""What goes over the pipes between the engine and a worker: length-prefixed msgpack, one struct a frame.

Calls carry a number that their reply repeats. A pipe that ends is the end of the other side: no further ceremony.
"""

import struct
from typing import Any

import msgspec

from gemma_mcp.engine.backend import LoadOptions, ModelSpec, Piece, SlotOptions, Step, StepResult
from gemma_mcp.types import ModelInfo, Segment

__all__ = [
    "HEADER",
    "Command",
    "Decode",
    "Decoded",
    "Encode",
    "Encoded",
    "Failed",
    "Interrupt",
    "Load",
    "Loading",
    "Open",
    "Opened",
    "Ran",
    "Ready",
    "Release",
    "Reply",
    "Run",
    "decode_command",
    "decode_reply",
    "pack",
]

HEADER = struct.Struct(">I")
"""Every frame is preceded by its length in bytes."""


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Always the first command."""

    backend: str
    spec: ModelSpec
    options: LoadOptions


class Encode(msgspec.Struct, frozen=True, tag="encode"):
    """Executor.encode."""

    call: int
    segments: tuple[Segment, ...]


class Decode(msgspec.Struct, frozen=True, tag="decode"):
    """Executor.decode."""

    call: int
    tokens: tuple[int, ...]


class Open(msgspec.Struct, frozen=True, tag="open"):
    """Executor.open."""

    call: int
    slot: int
    options: SlotOptions


class Run(msgspec.Struct, frozen=True, gc=False, tag="run"):
    """Executor.step."""

    call: int
    step: Step


class Release(msgspec.Struct, frozen=True, tag="release"):
    """Executor.release; no reply."""

    media: tuple[int, ...]


class Interrupt(msgspec.Struct, frozen=True, tag="interrupt"):
    """Executor.interrupt for the step of that call, unless it is over; no reply."""

    call: int


Command = Load | Encode | Decode | Open | Run | Release | Interrupt


class Loading(msgspec.Struct, frozen=True, tag="loading"):
    """How much of the model is loaded, 0 to 1."""

    fraction: float


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The model is loaded."""

    info: ModelInfo


class Encoded(msgspec.Struct, frozen=True, tag="encoded"):
    """Reply to Encode."""

    call: int
    pieces: tuple[Piece, ...]


class Decoded(msgspec.Struct, frozen=True, tag="decoded"):
    """Reply to Decode."""

    call: int
    text: bytes


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """Reply to Open."""

    call: int


class Ran(msgspec.Struct, frozen=True, gc=False, tag="ran"):
    """Reply to Run."""

    call: int
    result: StepResult


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Reply to any call, or to Load (then `call` is 0): an error as `gemma_mcp.errors.describe` writes it."""

    call: int
    error: dict[str, Any]


Reply = Loading | Ready | Encoded | Decoded | Opened | Ran | Failed

_encoder = msgspec.msgpack.Encoder()
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def pack(frame: Command | Reply) -> bytes:
    """A frame with its length in front."""
    body = _encoder.encode(frame)
    return HEADER.pack(len(body)) + body


def decode_command(body: bytes | bytearray | memoryview) -> Command:
    """A command without its length. Raises msgspec.DecodeError."""
    return _commands.decode(body)


def decode_reply(body: bytes | bytearray | memoryview) -> Reply:
    """A reply without its length. Raises msgspec.DecodeError."""
    return _replies.decode(body)
