"""Models for the tests of the llama.cpp backend: the packaged starter, and tiny ones with random weights."""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from gemma_mcp_llamacpp import LlamaCppBackend
from llamacpp_models import SMALL, Load
from tiny_gguf import Shape, write_gemma3, write_gemma4, write_projector

from gemma_mcp.engine.backend import Executor, LoadOptions, ModelSpec


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with gemma3.gguf (window 64), mmproj.gguf and gemma4.gguf, random weights."""
    folder = tmp_path_factory.mktemp("tiny")
    write_gemma3(folder / "gemma3.gguf", Shape())
    write_projector(folder / "mmproj.gguf", Shape())
    write_gemma4(folder / "gemma4.gguf", Shape())
    return folder


@pytest.fixture(scope="session")
def starter() -> ModelSpec:
    """The packaged starter model."""
    folder = Path(str(files("gemma_mcp"))) / "starter"
    path, projector = folder / "starter.gguf", folder / "mmproj.gguf"
    return ModelSpec(name="starter", format="gguf", path=str(path), projector=str(projector))


@pytest.fixture
def load() -> Iterator[Load]:
    """Load a file or a spec; it is closed after the test."""
    loaded: list[Executor] = []

    def run(model: Path | ModelSpec, options: LoadOptions = SMALL, projector: Path | None = None) -> Executor:
        if isinstance(model, Path):
            path = None if projector is None else str(projector)
            model = ModelSpec(name=model.stem, format="gguf", path=str(model), projector=path)
        loaded.append(LlamaCppBackend().load(model, options, lambda share: None))
        return loaded[-1]

    yield run
    for executor in loaded:
        executor.close()
