"""How the tests of this folder load models."""

from pathlib import Path
from typing import Protocol

from gemma_mcp.engine.backend import Executor, LoadOptions, ModelSpec

__all__ = ["SMALL", "Load"]

SMALL = LoadOptions(threads=1, slots=2, context_length=1024, step_tokens=256)


class Load(Protocol):
    """What the fixture `load` gives."""

    def __call__(
        self, model: Path | ModelSpec, options: LoadOptions = ..., projector: Path | None = None
    ) -> Executor: ...
