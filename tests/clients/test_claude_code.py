import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.clients

Client = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]


def line_of(name: str, done: subprocess.CompletedProcess[str]) -> str:
    """What the list says of a server; the exit code says nothing."""
    return next((line for line in done.stdout.splitlines() if line.startswith(f"{name}: ")), done.stdout + done.stderr)


def test_a_server_added_by_command_connects_is_described_and_goes_again(
    run_client: Client, server_environment: dict[str, str]
) -> None:
    variables = [word for name, value in server_environment.items() for word in ("-e", f"{name}={value}")]
    added = run_client("claude", "mcp", "add", "gemma", *variables, "--", sys.executable, "-m", "gemma_mcp")
    assert added.returncode == 0, added.stdout + added.stderr
    line = line_of("gemma", run_client("claude", "mcp", "list"))
    assert "gemma_mcp" in line
    assert line.endswith("Connected")
    assert "Failed" not in line
    described = run_client("claude", "mcp", "get", "gemma").stdout
    for words in ("Connected", sys.executable, "-m gemma_mcp", *variables[1::2]):
        assert words in described
    assert run_client("claude", "mcp", "remove", "gemma").returncode == 0
    assert "No MCP server" in run_client("claude", "mcp", "get", "gemma").stderr


def test_a_server_added_as_json_connects(run_client: Client, server_entry: dict[str, object]) -> None:
    added = run_client("claude", "mcp", "add-json", "gemma", json.dumps(server_entry))
    assert added.returncode == 0, added.stdout + added.stderr
    assert line_of("gemma", run_client("claude", "mcp", "list")).endswith("Connected")


def test_a_server_on_http_added_by_command_connects(run_client: Client, http_entry: dict[str, Any]) -> None:
    (header,) = http_entry["headers"].items()
    known = ["gemma", http_entry["url"], "--header", ": ".join(header)]
    added = run_client("claude", "mcp", "add", "--transport", "http", *known)
    assert added.returncode == 0, added.stdout + added.stderr
    assert run_client("claude", "mcp", "add", "--transport", "http", "stranger", http_entry["url"]).returncode == 0
    listed = run_client("claude", "mcp", "list")
    assert line_of("gemma", listed).endswith("Connected")
    assert not line_of("stranger", listed).endswith("Connected")


def test_a_server_whose_settings_are_wrong_does_not_connect(
    run_client: Client, server_environment: dict[str, str]
) -> None:
    variables = ["-e", f"GEMMA_MCP_HOME={server_environment['GEMMA_MCP_HOME']}", "-e", "GEMMA_MCP_ENGINE_PORT=x"]
    run_client("claude", "mcp", "add", "gemma", *variables, "--", sys.executable, "-m", "gemma_mcp")
    assert "Failed to connect" in line_of("gemma", run_client("claude", "mcp", "list"))


def test_the_example_is_a_project_file_that_is_read(run_client: Client, project: Path) -> None:
    example = (ROOT / "mcp.json.example").read_text(encoding="utf-8")
    (project / ".mcp.json").write_text(example, encoding="utf-8")
    line = line_of("gemma", run_client("claude", "mcp", "list"))
    (server,) = json.loads(example)["mcpServers"].values()
    assert server["command"] in line
    assert "Pending approval" in line
