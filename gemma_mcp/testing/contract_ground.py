"""The ground of the contract suite: what is known of the model under test, what it may fail, and its fixtures."""

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from PIL import Image

from gemma_mcp.engine.backend import Executor, LoadOptions
from gemma_mcp.testing.generation import empty
from gemma_mcp.types import Control, Segment, Text

__all__ = ["ContractGround", "Expected", "Facts", "never", "notimpl", "notyet", "picture", "turn"]


Raises = type[BaseException] | tuple[type[BaseException], ...]

FAILURES: Raises = (AssertionError, pytest.fail.Exception)
"""How a case fails that expected something else, or an exception that did not come."""


@dataclass(frozen=True)
class Expected:
    """Why a backend fails a case, and with what."""

    kind: str
    reason: str
    raises: Raises


def notimpl(reason: str, raises: Raises = FAILURES) -> Expected:
    """The runtime could do it; the backend does not use that."""
    return Expected("notimpl", reason, raises)


def notyet(reason: str, raises: Raises = FAILURES) -> Expected:
    """The runtime cannot do it in the version in use."""
    return Expected("notyet", reason, raises)


def never(reason: str, raises: Raises = FAILURES) -> Expected:
    """It makes no sense for this backend."""
    return Expected("never", reason, raises)


def turn(*parts: Segment) -> tuple[Segment, ...]:
    """A user turn in the markers of Gemma 1 to 3, up to where the reply begins."""
    return (Control("<bos><start_of_turn>user\n"), *parts, Control("<end_of_turn>\n<start_of_turn>model\n"))


def picture(colour: str, side: int = 112) -> bytes:
    """A square PNG of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the suite must know of the model. Replies to `prompts` differ, and end by themselves within 64 tokens."""

    prompts: tuple[tuple[Segment, ...], tuple[Segment, ...]] = field(
        default_factory=lambda: (turn(Text("What is the capital of France?")), turn(Text("hello")))
    )
    filler: str = "the cat sat on the mat and the dog saw it. "
    marker: str = "<start_of_turn>"


class ContractGround(ABC):
    """What all cases share: one loaded model."""

    facts: ClassVar[Facts] = Facts()
    expected: ClassVar[Mapping[str, Expected]] = {}
    options: ClassVar[LoadOptions] = LoadOptions(context_length=1024, slots=3, step_tokens=256, threads=1)

    @classmethod
    @abstractmethod
    def load(cls, options: LoadOptions) -> Executor:
        """Load the model under test."""

    @pytest.fixture(scope="class")
    @classmethod
    def loaded(cls) -> Iterator[Executor]:
        """The executor under test, shared by the cases."""
        executor = cls.load(cls.options)
        yield executor
        executor.close()

    @pytest.fixture
    def executor(self, loaded: Executor) -> Executor:
        """The executor with every slot empty."""
        empty(loaded)
        return loaded

    @pytest.fixture(autouse=True)
    def _expect(self, request: pytest.FixtureRequest) -> None:
        function: object = request.function
        why = self.expected.get(getattr(function, "__name__", ""))
        if why is not None:
            mark = pytest.mark.xfail(reason=f"{why.kind}: {why.reason}", raises=why.raises, strict=True)
            request.applymarker(mark)
