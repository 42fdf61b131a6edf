"""The SDK's first generation, which many clients are built with, talks to the server."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.clients

SCRIPT = Path(__file__).with_name("sdk1_client.py")
SECONDS = 120


def texts(result: dict[str, Any]) -> list[str]:
    return [block["text"] for block in result["content"]]


@pytest.fixture
def report(sdk1: Path, project: Path, entry: dict[str, object]) -> dict[str, Any]:
    (project / "a.txt").write_text("from a file", encoding="utf-8")
    command = [str(sdk1), str(SCRIPT), json.dumps(entry), str(project)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("entry", ["stdio", "http"], indirect=True)
def test_the_older_sdk_finds_everything_it_knows(report: dict[str, Any], offered: dict[str, list[str]]) -> None:
    assert report["hello"]["protocolVersion"] == "2025-11-25"
    assert report["hello"]["serverInfo"]["name"] == "gemma-mcp"
    assert report["tools"] == offered["tools"]
    assert report["tools"] == ["generate_text", "complete_code", "analyze_image", "chat", "map_files"]
    assert [prompt["name"] for prompt in report["prompts"]] == offered["prompts"]
    assert all("completion" in told for told in report["completions"])
    assert [resource["uri"] for resource in report["resources"]] == offered["resources"]
    assert [template["uriTemplate"] for template in report["templates"]] == offered["templates"]
    assert all(told["contents"] for told in report["read"])
    answers = {tool: texts(result)[0] for tool, result in report["answers"].items()}
    assert answers["generate_text"] == '<file path="a.txt">\nfrom a file\n</file>\n\nSay it.'
    assert answers["complete_code"] == "# 4 before, 1 after"
    assert "What is it?" in answers["analyze_image"]
    assert answers["chat"] == "hello"
    assert all(texts(result)[1].startswith("[echo · ") for result in report["answers"].values())
    assert report["refused"]["isError"]
    assert "`modell`" in texts(report["refused"])[0]
    assert report["unknown"]["code"] == -32602
    assert "Did you mean generate_text?" in report["unknown"]["message"]
    assert "Timed out" in report["timeout"]["message"]
    assert texts(report["after"])[0] == "after the timeout"
    assert any(message.startswith("reading ") for message in report["progress"])
