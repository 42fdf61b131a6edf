"""What is asked of every record, and the names that follow from it: of the job, and of each of its questions."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gemma_mcp.errors import GemmaError
from gemma_mcp.models.lookup import find_model
from gemma_mcp.places import Places
from gemma_mcp.server.caller import Options
from gemma_mcp.server.inputs.files import TextFile, compose
from gemma_mcp.server.maps.records import Part, Per, excerpt
from gemma_mcp.server.overflow import Task
from gemma_mcp.settings import Settings
from gemma_mcp.types import ModelSpec
from gemma_mcp.wire import ChatMessage

__all__ = ["Job", "MapTask", "ModelMark", "mark_of", "mark_of_name"]

VERSION = 1
"""Of the way prompts are laid out; results of another one are not taken for those of this one."""


@dataclass(frozen=True)
class ModelMark:
    """Which model is meant. `files` changes whenever its files do; `notice` must be said with its results."""

    name: str
    files: str = ""
    notice: str = ""


def mark_of(spec: ModelSpec) -> ModelMark:
    """The mark of a model on this machine. Looks at its files from outside: gigabytes are not read for a name."""
    files = [Path(file) for file in (spec.path, spec.projector) if file and spec.format != "echo"]
    stats = [file.stat() for file in files]
    stamp = [[str(file), status.st_size, status.st_mtime_ns] for file, status in zip(files, stats, strict=True)]
    return ModelMark(spec.name, _digest([spec.format, *stamp]), spec.notice)


def mark_of_name(name: str, settings: Settings, places: Places) -> ModelMark:
    """The mark of the model that a name means. Blocks. Of what is not found the engine will say why, if it is asked."""
    try:
        return mark_of(find_model(name, settings, places))
    except (GemmaError, OSError):
        return ModelMark(name)


@dataclass(frozen=True)
class MapTask(Task):
    """The instruction comes first and the file last, so that all questions of a job begin alike and the engine
    computes the beginning once.
    """

    def messages(self, files: Sequence[TextFile], note: str = "") -> list[ChatMessage]:
        """See Task."""
        return self.conversation(f"{self.prompt}\n\n{compose(files, note.strip())}".rstrip("\n"))


@dataclass(frozen=True)
class Job:
    """An instruction and how to follow it. `options` hold what the caller chose, the time box apart."""

    instruction: str
    options: Options
    schema: dict[str, Any] | None
    per: Per
    chunk_tokens: int | None
    max_tokens: int
    model: ModelMark

    @property
    def repeatable(self) -> bool:
        """Whether the same question has the same answer, so that others' answers may be taken."""
        return not self.options.temperature or self.options.seed is not None

    @property
    def id(self) -> str:
        """Names the job, whatever files it is done for: what it asks of which model, by its name."""
        return _digest([VERSION, self.model.name, self.per, self.chunk_tokens, *self._asked()])[:12]

    def key(self, file: TextFile, part: Part) -> str:
        """Names the question about a part of a file."""
        block = excerpt(file, part, self.per).block
        place = None if self.repeatable else part.lines
        return _digest([VERSION, self.model.name, self.model.files, *self._asked(), block, place])[:32]

    def task(self, file: TextFile) -> MapTask:
        """The question."""
        return MapTask(self.instruction, None, [file])

    def whole(self, options: Options) -> Options:
        """Options for a file that is not cut: with a limit that is refused rather than lowered where it is too high."""
        return replace(options, max_tokens=self.max_tokens)

    def _asked(self) -> list[object]:
        return [self.instruction, self.schema, self.max_tokens, self.options.temperature, self.options.seed]


def _digest(value: object) -> str:
    """Schemas differ by the order of their properties, too: replies come in it."""
    text = json.dumps(value, ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
