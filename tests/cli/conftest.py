import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment with a home of the test's own, and no settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GEMMA_MCP_")}
    return inherited | {"GEMMA_MCP_HOME": str(tmp_path / "home")}


@pytest.fixture
def gemma_mcp(environment: dict[str, str]) -> Run:
    """Run the command line in a process of its own, as a user does."""

    def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return run_cli(arguments, environment | changes)

    return run


def run_cli(arguments: tuple[str, ...], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from gemma_mcp.cli.main import main; main()", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
