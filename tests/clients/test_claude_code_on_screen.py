"""Claude Code before a user, in a terminal: what is seen of our progress, and what the escape key does."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import psutil
import pytest
from claude_code import ClaudeCode, servers_of
from messages_api import LAST_WORD, ToolUse, playing, text_of

from gemma_mcp.testing.engines import EngineHome

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals of this kind"),
]

if TYPE_CHECKING:
    from terminal import Terminal  # which Windows cannot import

SECONDS = 30

RECORDER = Path(__file__).with_name("recorder.py")


@pytest.fixture
def hold(project: Path) -> Iterator[Path]:
    """The echo model waits for this file, which is there at the latest when the test ends."""
    path = project / "go"
    yield path
    path.touch()


def ask(screen: "Terminal", words: str) -> None:
    """Type a question, see it echoed, and send it."""
    screen.type(words)
    screen.wait_for(f"❯ {words}")
    screen.press_return()


def test_progress_is_seen_while_the_model_works(claude: ClaudeCode, hold: Path) -> None:
    with playing([ToolUse("generate_text", {"prompt": f"!hold {hold} done"})]) as api, claude.on_screen(api) as screen:
        ask(screen, "Go on.")
        screen.wait_for("⎿  reading ")
        hold.touch()
        screen.wait_for(LAST_WORD)
    assert text_of(api.results[0])[0] == "done"


async def test_the_escape_key_ends_the_call_in_the_engine_and_not_the_server(
    claude: ClaudeCode, home: EngineHome, hold: Path, entry: dict[str, Any], tmp_path: Path
) -> None:
    record = tmp_path / "sent.jsonl"
    entry["args"] = [str(RECORDER), str(record), sys.executable, *entry["args"]]
    with playing(endless(hold)) as api, claude.on_screen(api) as screen:
        (server,) = await ask_and_escape(screen, home)
        assert server.is_running()
    sent = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    (call,) = [message for message in sent if message["method"] == "tools/call"]
    (cancelled,) = [message for message in sent if message["method"] == "notifications/cancelled"]
    assert cancelled["params"]["requestId"] == call["id"]


def test_a_call_that_lasts_long_goes_on_in_the_background_and_its_result_arrives(
    claude: ClaudeCode, hold: Path, entry: dict[str, Any]
) -> None:
    entry["env"]["GEMMA_MCP_SERVER_TASK_AFTER_SECONDS"] = "0.5"
    with playing([ToolUse("generate_text", {"prompt": f"!hold {hold} at last"})]) as api:
        with claude.on_screen(api) as screen:
            ask(screen, "Go on.")
            screen.wait_for("1 MCP task")
            hold.touch()
            screen.wait_for("(gemma/generate_text) completed")
            screen.wait_for(LAST_WORD, times=2)
    assert "started server-side task" in text_of(api.results[0])[0]
    assert "<result>\\nat last\\n[echo · " in api.everything


@pytest.mark.parametrize("entry", ["http"], indirect=True)
async def test_the_escape_key_ends_a_call_over_http_too(claude: ClaudeCode, home: EngineHome, hold: Path) -> None:
    with playing(endless(hold)) as api, claude.on_screen(api) as screen:
        await ask_and_escape(screen, home)


def endless(hold: Path) -> list[ToolUse]:
    return [ToolUse("generate_text", {"prompt": f"!hold {hold} never", "max_seconds": 3600})]


async def ask_and_escape(screen: "Terminal", home: EngineHome) -> list[psutil.Process]:
    """Once the model works on the call, press the key and wait until nothing runs. Gives the servers on stdio."""
    ask(screen, "Go on.")
    screen.wait_for("⎿  reading ")
    servers = servers_of(home)
    assert await running(home) == 1
    screen.press_escape()
    screen.wait_for("Interrupted")
    with anyio.fail_after(SECONDS):
        while await running(home):
            await anyio.sleep(0.05)
    return servers


async def running(home: EngineHome) -> float:
    """Requests that hold a slot, as the engine's metrics say."""
    state = home.state()
    async with httpx2.AsyncClient(trust_env=False) as http:
        response = await http.get(f"{state.url}/metrics", headers={"authorization": f"Bearer {state.token}"})
    lines = response.raise_for_status().text.splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith('gemma_running{model="echo"}')]
    return float(value)
