"""Claude Code calls our tools. Its model is a script (messages_api.py); the rest is as users have it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from anyio import to_thread
from claude_code import ClaudeCode, output_of, servers_of
from messages_api import LAST_WORD, ToolUse, playing, text_of

from gemma_mcp.testing.engines import EngineHome

pytestmark = pytest.mark.clients

SECONDS = 60


def records_of(output: str) -> list[dict[str, Any]]:
    """What Claude Code reports of its work, a line each."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("entry", ["stdio", "http"], indirect=True)
def test_a_file_named_by_path_is_worked_on_and_never_sent_to_the_service(claude: ClaudeCode, project: Path) -> None:
    ledger = "the vault opens at noon\n" * 100
    (project / "ledger.txt").write_text(ledger, encoding="utf-8")
    call = ToolUse("generate_text", {"prompt": "Sum up.", "files": ["ledger.txt"], "max_tokens": 8})
    with playing([call]) as api:
        output = claude.ask(api)
    (first, *_, last) = records_of(output)
    assert {"name": "gemma", "status": "connected"}.items() <= first["mcp_servers"][0].items()
    assert last["result"] == LAST_WORD
    (result,) = api.results
    answer, line = text_of(result)
    assert answer == "<file pa"
    read = re.search(r"([\d,]+) prompt", line)
    assert read
    assert int(read[1].replace(",", "")) > len(ledger), "each byte that this model reads is a token"
    assert "vault" not in api.everything
    assert "vault" not in output


async def test_calls_of_one_turn_run_at_the_same_time(claude: ClaudeCode, home: EngineHome, project: Path) -> None:
    hold = project / "go"
    calls = [ToolUse("generate_text", {"prompt": f"!hold {hold} {word}"}) for word in ("one", "two")]
    with playing(calls) as api:
        run = claude.start(api)
        try:
            async with home.pool() as pool:
                with anyio.fail_after(SECONDS):
                    while (status := await pool.running()) is None or _under_way(status.models) < 2:
                        await anyio.sleep(0.05)
        finally:
            hold.touch()
            await to_thread.run_sync(output_of, run)
    answers = {result["tool_use_id"]: text_of(result)[0] for result in api.results}
    assert answers == {"toolu_0_0": "one", "toolu_0_1": "two"}


def _under_way(models: Sequence[Any]) -> int:
    return sum(model.running + model.waiting for model in models)


def test_a_server_that_was_killed_is_started_again_by_the_next_call(claude: ClaudeCode, home: EngineHome) -> None:
    killed: list[psutil.Process] = []

    def after_its_death() -> Sequence[ToolUse]:
        killed.extend(servers_of(home))
        for server in killed:
            server.kill()
        psutil.wait_procs(killed, timeout=SECONDS)
        return [ToolUse("generate_text", {"prompt": "alive again"})]

    with playing([ToolUse("generate_text", {"prompt": "alive"})], after_its_death) as api:
        claude.ask(api)
    assert len(killed) == 1
    assert [text_of(result)[0] for result in api.results] == ["alive", "alive again"]


def test_errors_reach_the_model_in_our_words(claude: ClaudeCode) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"prompt": "x", "files": ["missing.txt"]}, "there is no such file in the project folder"),
        ({"prompt": "x", "modell": "y"}, "`modell`"),
        ({"prompt": "!fail x"}, "The turn ordered a failure."),
    ]
    with playing([ToolUse("generate_text", arguments) for arguments, _ in wrong]) as api:
        claude.ask(api)
    told = {result["tool_use_id"]: result for result in api.results}
    assert len(told) == len(wrong)
    for place, (_, sentence) in enumerate(wrong):
        result = told[f"toolu_0_{place}"]
        assert result["is_error"] is True
        (text,) = text_of(result)
        assert sentence in text
        assert "Traceback" not in text
