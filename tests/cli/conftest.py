import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CLI = [sys.executable, "-c", "from gemma_mcp.cli.main import main; main()"]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment with a home of the test's own, and no settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GEMMA_MCP_")}
    return inherited | {"GEMMA_MCP_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}


@pytest.fixture
def gemma_mcp(environment: dict[str, str]) -> Run:
    """Run the command line in a process of its own, as a user does."""

    def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CLI, *arguments],
            env=environment | changes,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )

    return run


@pytest.fixture
def own_engine(environment: dict[str, str], gemma_mcp: Run) -> Iterator[subprocess.Popen[str]]:
    """An engine that runs in the foreground of another console, with the echo model."""
    settings = {"GEMMA_MCP_MODEL_DEFAULT": "echo"}
    engine = subprocess.Popen(
        [*CLI, "engine", "run"],
        env=environment | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        while gemma_mcp("engine", "status", **settings).returncode != 0:
            assert engine.poll() is None, engine.communicate()
        yield engine
    finally:
        engine.kill()
        engine.communicate()
