"""Homes for engines that a test may start, kill and replace as it likes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gemma_mcp.testing.engines import EngineHome

SMALL = {
    "GEMMA_MCP_LLAMACPP_CONTEXT": "2048",
    "GEMMA_MCP_LLAMACPP_SLOTS": "2",
    "GEMMA_MCP_LLAMACPP_THREADS": "1",
    "GEMMA_MCP_ENGINE_QUEUE_LIMIT": "2",
}


@pytest.fixture
def new_home(tmp_path: Path) -> Iterator[Callable[..., EngineHome]]:
    """Makes a home with settings of its own; its processes must end when they are asked to."""
    homes: list[EngineHome] = []

    def make(**settings: str) -> EngineHome:
        named = {f"GEMMA_MCP_{name.upper()}": text for name, text in settings.items()}
        homes.append(EngineHome(tmp_path / f"home{len(homes)}", {**SMALL, **named}))
        return homes[-1]

    yield make
    assert [home.end() for home in homes] == [[] for _ in homes]


@pytest.fixture
def home(new_home: Callable[..., EngineHome]) -> EngineHome:
    return new_home()
