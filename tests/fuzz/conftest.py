"""Servers to fire at, and the counts at the end."""

from collections import Counter
from collections.abc import Generator, Iterator

import pytest
from fuzz_server import FuzzServer
from fuzz_trees import Tree

from gemma_mcp.testing.engines import EngineHome

COUNTS: Counter[str] = Counter()

SETTINGS = {
    "GEMMA_MCP_MODEL_DEFAULT": "echo",
    "GEMMA_MCP_LLAMACPP_THREADS": "1",
    "GEMMA_MCP_SERVER_MAX_TOKENS": "32",
    "GEMMA_MCP_SERVER_MAX_SECONDS": "20",
}


@pytest.fixture(scope="session")
def counts() -> Counter[str]:
    return COUNTS


@pytest.fixture(scope="session")
def fuzz_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineHome]:
    home = EngineHome(tmp_path_factory.mktemp("fuzz-home"), SETTINGS)
    yield home
    assert home.end() == []


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return Tree.plant(tmp_path_factory.mktemp("fuzz-tree"))


@pytest.fixture(params=[False, True], ids=["repository", "repository above"])
def git_server(
    request: pytest.FixtureRequest, fuzz_home: EngineHome, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FuzzServer]:
    """A server for a project with a history of its own, or as a part of a larger one."""
    tree = Tree.plant(tmp_path_factory.mktemp("fuzz-git"), repository_above=request.param)
    yield from _serving(request, FuzzServer(fuzz_home, tree))


@pytest.fixture(params=[True], ids=["2025-11-25"])
def server(request: pytest.FixtureRequest, fuzz_home: EngineHome, tree: Tree) -> Iterator[FuzzServer]:
    """One server for a whole test: what one example breaks, the next ones find."""
    yield from _serving(request, FuzzServer(fuzz_home, tree, handshake=request.param))


def _serving(request: pytest.FixtureRequest, server: FuzzServer) -> Iterator[FuzzServer]:
    yield server
    if request.node.stash.get(FAILED, False):
        server.kill()
    else:
        server.end()


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COUNTS:
        terminalreporter.write_line(
            "fuzz: " + ", ".join(f"{count:,} {name}" for name, count in COUNTS.items()) + "; nothing got out or broke"
            if not terminalreporter.stats.get("failed")
            else f"fuzz: {dict(COUNTS)}, with failures"
        )
