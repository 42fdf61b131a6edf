"""The contract suite on llama.cpp: the starter model, and a random one whose window is 64."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
from gemma_mcp_llamacpp import LlamaCppBackend

from gemma_mcp.engine.backend import Executor, LoadOptions, ModelSpec
from gemma_mcp.testing.contract import BackendContract, Expected, never


class _OnLlamaCpp(BackendContract):
    spec: ClassVar[ModelSpec]

    @classmethod
    def load(cls, options: LoadOptions) -> Executor:
        return LlamaCppBackend().load(cls.spec, options, lambda share: None)


class TestStarter(_OnLlamaCpp):
    """The packaged model."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _spec(cls, starter: ModelSpec) -> None:
        cls.spec = starter


class TestTinyWindow(_OnLlamaCpp):
    """Random weights, so nothing it says ends; but trims behind its window are the rule here."""

    expected: ClassVar[Mapping[str, Expected]] = {
        "test_a_reply_ends_and_its_end_has_no_text": never("random weights do not end a reply"),
    }

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _spec(cls, tiny: Path) -> None:
        projector = str(tiny / "mmproj.gguf")
        cls.spec = ModelSpec(name="tiny", format="gguf", path=str(tiny / "gemma3.gguf"), projector=projector)
