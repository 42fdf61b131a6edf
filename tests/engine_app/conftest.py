"""One engine for the tests of the HTTP wire, with small limits; homes of their own for those that end engines."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from gemma_mcp.testing.engines import EngineHome

SMALL = {
    "GEMMA_MCP_LLAMACPP_CONTEXT": "4096",
    "GEMMA_MCP_LLAMACPP_SLOTS": "2",
    "GEMMA_MCP_LLAMACPP_THREADS": "1",
    "GEMMA_MCP_ENGINE_QUEUE_LIMIT": "2",
    "GEMMA_MCP_SERVER_MAX_PROMPT_BYTES": "10000",
    "GEMMA_MCP_SERVER_MAX_IMAGES": "3",
    "GEMMA_MCP_SERVER_MAX_IMAGE_BYTES": "2000",
}


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineHome]:
    home = EngineHome(tmp_path_factory.mktemp("engine"), SMALL)
    home.start()
    yield home
    assert home.end() == []


@pytest.fixture
def http(shared_home: EngineHome) -> Iterator[httpx2.Client]:
    """A client that knows the shared engine's token."""
    state = shared_home.state()
    headers = {"authorization": f"Bearer {state.token}"}
    with httpx2.Client(base_url=state.url, headers=headers, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def stranger(shared_home: EngineHome) -> Iterator[httpx2.Client]:
    """A client without the token."""
    with httpx2.Client(base_url=shared_home.state().url, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def new_home(tmp_path: Path) -> Iterator[Callable[..., EngineHome]]:
    """Makes a home with settings of its own; its processes must end when they are asked to."""
    homes: list[EngineHome] = []

    def make(**settings: str) -> EngineHome:
        folder = tmp_path / f"home{len(homes)}"
        named = {f"GEMMA_MCP_{name.upper()}": text for name, text in settings.items()}
        homes.append(EngineHome(folder, {**SMALL, **named}))
        return homes[-1]

    yield make
    assert [home.end() for home in homes] == [[] for _ in homes]
