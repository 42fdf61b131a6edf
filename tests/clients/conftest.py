"""MCP clients that people use, run against the real server. `make clients` installs them."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path

import pytest

from gemma_mcp.client.pool import EnginePool
from gemma_mcp.places import Places
from gemma_mcp.settings_sources import load_settings

MODULES = Path(__file__).parent / "node_modules"
OLDEST_NODE = (22, 19)
"""What MCP Inspector 2.12 asks for."""

Client = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def node_tools() -> Mapping[str, str]:
    """The search path with Node and the clients on it. Without them: skipped, or failed if REQUIRE_CLIENTS is set."""
    folders = [str(MODULES / ".bin"), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    path = os.pathsep.join(folders)
    missing = _missing(path)
    if missing and os.environ.get("REQUIRE_CLIENTS"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    return {"PATH": path}


def _missing(path: str) -> str:
    node = shutil.which("node", path=path)
    if node is None:
        return "Node is not installed: make clients"
    told = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    version = tuple(int(part) for part in re.findall(r"\d+", told)[:2])
    if version < OLDEST_NODE:
        return f"Node {told.strip()} is too old: make clients"
    absent = [name for name in ("mcp-inspector", "claude") if not shutil.which(name, path=str(MODULES / ".bin"))]
    return f"{' and '.join(absent)} not installed: make clients" if absent else ""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty project folder."""
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
async def server_environment(tmp_path: Path) -> AsyncGenerator[dict[str, str]]:
    """What the server is told: a home of its own and the echo model. An engine that it starts is stopped."""
    environment = {"GEMMA_MCP_HOME": str(tmp_path / "home"), "GEMMA_MCP_MODEL_DEFAULT": "echo"}
    yield environment
    async with EnginePool(load_settings(environment).settings, Places.find(environment)) as pool:
        await pool.stop()


@pytest.fixture
def run_client(node_tools: Mapping[str, str], project: Path, tmp_path: Path) -> Client:
    """Run a client in the project folder, with a user's folder that nobody else uses."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GEMMA_MCP_", "CLAUDE"))}
    environment = {**inherited, **node_tools, "HOME": str(tmp_path), "CI": "1"}

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(MODULES / ".bin" / name), *arguments],
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )

    return run
