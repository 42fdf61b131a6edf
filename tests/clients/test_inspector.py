import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.clients

Client = Callable[..., subprocess.CompletedProcess[str]]
TOOLS = ["generate_text", "complete_code", "analyze_image", "chat"]


@pytest.fixture
def inspect(run_client: Client, project: Path, server_environment: dict[str, str]) -> Client:
    """Run MCP Inspector's command line on the server."""
    entry = {"command": sys.executable, "args": ["-m", "gemma_mcp"], "env": server_environment}
    config = project / "inspector.json"
    config.write_text(json.dumps({"mcpServers": {"gemma": entry}}), encoding="utf-8")

    def run(era: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        options = ["--cli", "--config", str(config), "--server", "gemma", "--protocol-era", era, "--format", "json"]
        return run_client("mcp-inspector", *options, *arguments)

    return run


def payload(done: subprocess.CompletedProcess[str]) -> Any:
    told = json.loads(done.stdout)
    return told.get("result", told)


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_tools_satisfy_the_inspector_at_its_strictest(inspect: Client, era: str) -> None:
    done = inspect(era, "--method", "tools/list", "--strict")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [tool["name"] for tool in payload(done)["tools"]] == TOOLS


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_tool_answers_the_inspector(inspect: Client, era: str) -> None:
    arguments = json.dumps({"prompt": "Hello from the inspector"})
    done = inspect(era, "--method", "tools/call", "--tool-name", "generate_text", "--tool-args-json", arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    answer, line = payload(done)["content"]
    assert answer["text"] == "Hello from the inspector"
    assert line["text"].startswith("[echo · ")


def test_a_refusal_reaches_the_inspector_as_a_tool_error(inspect: Client) -> None:
    arguments = json.dumps({"prompt": "x", "modell": "y"})
    done = inspect("modern", "--method", "tools/call", "--tool-name", "generate_text", "--tool-args-json", arguments)
    assert done.returncode == 5
    assert "model" in done.stdout + done.stderr
