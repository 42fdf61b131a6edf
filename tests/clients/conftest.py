"""MCP clients that people use, run against the real server. `make clients` installs them."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from claude_code import ClaudeCode
from http_server import serving_http
from mcp import Client, StdioServerParameters

from gemma_mcp.testing.engines import EngineHome

MODULES = Path(__file__).parent / "node_modules"
OLDEST_NODE = (22, 19)
"""What MCP Inspector 2.12 asks for."""

PROGRAMS = ("claude", "conformance", "mcp-inspector")

RunClient = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def node_tools() -> Mapping[str, str]:
    """The search path with Node and the clients on it. Without them: skipped, or failed if REQUIRE_CLIENTS is set."""
    folders = [str(MODULES / ".bin"), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    path = os.pathsep.join(folders)
    _require(_missing(path))
    return {"PATH": path}


@pytest.fixture(scope="session")
def sdk1() -> Path:
    """The interpreter whose environment holds the SDK's first generation."""
    interpreter = Path(sys.prefix) / "sdk1" / "bin" / "python"
    _require("" if interpreter.exists() else "The older SDK is not installed: make clients")
    return interpreter


def _require(missing: str) -> None:
    if missing and os.environ.get("REQUIRE_CLIENTS"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


def _missing(path: str) -> str:
    node = shutil.which("node", path=path)
    if node is None:
        return "Node is not installed: make clients"
    told = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    version = tuple(int(part) for part in re.findall(r"\d+", told)[:2])
    if version < OLDEST_NODE:
        return f"Node {told.strip()} is too old: make clients"
    absent = [name for name in PROGRAMS if not shutil.which(name, path=str(MODULES / ".bin"))]
    return f"{' and '.join(absent)} not installed: make clients" if absent else ""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty project folder."""
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineHome]:
    """Where the servers of a module's tests keep their files, with the echo model and one engine for all of them."""
    settings = {"GEMMA_MCP_MODEL_DEFAULT": "echo", "GEMMA_MCP_SERVER_PROGRESS_INTERVAL": "0.1"}
    home = EngineHome(tmp_path_factory.mktemp("gemma"), settings)
    yield home
    home.end()


@pytest.fixture
def server_environment(home: EngineHome) -> dict[str, str]:
    """What a client's configuration tells the server."""
    return {name: value for name, value in home.environ.items() if name.startswith("GEMMA_MCP_")}


@pytest.fixture
def server_entry(server_environment: dict[str, str]) -> dict[str, object]:
    """Our entry in a client's list of servers."""
    return {"type": "stdio", "command": sys.executable, "args": ["-m", "gemma_mcp"], "env": server_environment}


@pytest.fixture
async def offered(home: EngineHome, project: Path) -> dict[str, list[str]]:
    """The names of all that the server offers, as the SDK's own client is told them."""
    server = StdioServerParameters(command=sys.executable, args=["-m", "gemma_mcp"], env=home.environ, cwd=project)
    async with Client(server) as client:
        templates = (await client.list_resource_templates()).resource_templates
        return {
            "tools": [tool.name for tool in (await client.list_tools()).tools],
            "prompts": [prompt.name for prompt in (await client.list_prompts()).prompts],
            "resources": [str(resource.uri) for resource in (await client.list_resources()).resources],
            "templates": [template.uri_template for template in templates],
        }


@pytest.fixture
def http_entry(home: EngineHome, project: Path) -> Iterator[dict[str, object]]:
    """The entry of a server that listens on HTTP, with the token."""
    with serving_http(home.environ, project) as entry:
        yield entry


@pytest.fixture
def entry(request: pytest.FixtureRequest) -> dict[str, object]:
    """The entry for stdio, or for the transport that a test is parametrized with."""
    transport = getattr(request, "param", "stdio")
    return request.getfixturevalue({"stdio": "server_entry", "http": "http_entry"}[transport])


@pytest.fixture
def run_client(node_tools: Mapping[str, str], project: Path, tmp_path: Path) -> RunClient:
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


@pytest.fixture
def claude(node_tools: Mapping[str, str], project: Path, tmp_path: Path, entry: dict[str, object]) -> ClaudeCode:
    """Claude Code, knowing our server and no other."""
    return ClaudeCode(MODULES / ".bin" / "claude", tmp_path, project, node_tools["PATH"], entry)
