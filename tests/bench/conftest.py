"""A synthetic model for the tests of the benchmark: of tiny shape, and otherwise made as the real ones are."""

from pathlib import Path

import pytest

from gemma_mcp.bench.shapes import Shape
from gemma_mcp.bench.synthetic import synthetic_model
from gemma_mcp.places import Places


@pytest.fixture(scope="session")
def shape() -> Shape:
    """Two layers, a window of 64 tokens and 2,048 tokens in the vocabulary."""
    return Shape("tiny", "gemma3", 2, 64, 128, 2, 1, 32, 64, 8192, 2048)


@pytest.fixture(scope="session")
def tiny(shape: Shape, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file, quantised to Q4_0."""
    places = Places.below(tmp_path_factory.mktemp("synthetic"))
    return synthetic_model(shape, "Q4_0", places, lambda share, text: None)
