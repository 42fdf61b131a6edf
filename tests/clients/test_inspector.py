"""MCP Inspector's command line, in the three ways it can speak to a server, over both transports."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.clients

Client = Callable[..., subprocess.CompletedProcess[str]]
TOOLS = ["generate_text", "complete_code", "analyze_image", "chat", "map_files"]
RECORDER = Path(__file__).with_name("recorder.py")

each_transport = pytest.mark.parametrize("entry", ["stdio", "http"], indirect=True)
each_era = pytest.mark.parametrize("era", ["legacy", "auto", "modern"])


@pytest.fixture
def inspect(run_client: Client, project: Path, entry: dict[str, object]) -> Client:
    """Run the command line on the server."""

    def run(era: str, method: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        config = project / "inspector.json"
        config.write_text(json.dumps({"mcpServers": {"gemma": entry}}), encoding="utf-8")
        options = ["--cli", "--config", str(config), "--server", "gemma", "--protocol-era", era, "--format", "json"]
        options += ["--connect-timeout", "90000"]  # a busy machine starts our server slowly
        return run_client("mcp-inspector", *options, "--method", method, *arguments)

    return run


def call(inspect: Client, era: str, **arguments: Any) -> subprocess.CompletedProcess[str]:
    return inspect(era, "tools/call", "--tool-name", "generate_text", "--tool-args-json", json.dumps(arguments))


def payload(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    return told.get("result", told)


@each_transport
@each_era
def test_the_tools_satisfy_the_inspector_at_its_strictest_and_answer(inspect: Client, project: Path, era: str) -> None:
    listed = payload(inspect(era, "tools/list", "--strict"))
    assert [tool["name"] for tool in listed["tools"]] == TOOLS
    (project / "a.txt").write_text("from a file", encoding="utf-8")
    answer, line = payload(call(inspect, era, prompt="Say it.", files=["a.txt"]))["content"]
    assert answer["text"] == '<file path="a.txt">\nfrom a file\n</file>\n\nSay it.'
    assert line["text"].startswith("[echo · ")


@each_transport
@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_refusal_reaches_the_inspector_as_a_tool_error(inspect: Client, era: str) -> None:
    done = call(inspect, era, prompt="x", modell="y")
    assert done.returncode == 5
    assert "`modell`" in done.stdout + done.stderr


@each_era
@pytest.mark.parametrize("entry", ["stdio"], indirect=True)
def test_prompts_and_resources_are_listed(inspect: Client, offered: dict[str, list[str]], era: str) -> None:
    prompts = payload(inspect(era, "prompts/list"))["prompts"]
    resources = payload(inspect(era, "resources/list"))["resources"]
    assert [prompt["name"] for prompt in prompts] == offered["prompts"]
    assert [resource["uri"] for resource in resources] == offered["resources"]


@pytest.mark.parametrize("entry", ["stdio"], indirect=True)
def test_a_call_that_lasts_is_a_task_for_the_inspector(inspect: Client, entry: dict[str, Any], tmp_path: Path) -> None:
    record = tmp_path / "sent.jsonl"
    entry["env"]["GEMMA_MCP_SERVER_TASK_AFTER_SECONDS"] = "0.2"
    entry["args"] = [str(RECORDER), str(record), sys.executable, *entry["args"]]
    answer, _ = payload(call(inspect, "modern", prompt="!slow 0.2 ten_tokens"))["content"]
    assert answer["text"] == "ten_tokens"
    asked = [json.loads(line)["method"] for line in record.read_text(encoding="utf-8").splitlines()]
    assert asked.count("tools/call") == 1
    assert "tasks/get" in asked
