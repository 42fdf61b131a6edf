import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_without_an_engine_that_is_said(gemma_mcp: Run, tmp_path: Path) -> None:
    status, as_json, stop, logs = (
        gemma_mcp("engine", *words) for words in (["status"], ["status", "--json"], ["stop"], ["logs"])
    )
    assert (status.returncode, status.stdout) == (1, "No engine is running.\n")
    assert (as_json.returncode, json.loads(as_json.stdout)) == (1, None)
    assert (stop.returncode, stop.stdout) == (0, "No engine is running.\n")
    assert (logs.returncode, logs.stdout) == (0, f"There are no logs in {tmp_path / 'home' / 'logs'} yet.\n")


def test_an_engine_runs_is_described_and_is_stopped(gemma_mcp: Run, own_engine: subprocess.Popen[str]) -> None:
    told = gemma_mcp("engine", "status", GEMMA_MCP_MODEL_DEFAULT="echo")
    assert told.stdout.startswith(f"Running for 0 min: pid {own_engine.pid}, port ")
    assert told.stdout.endswith("  no model is loaded\n")
    status = json.loads(gemma_mcp("engine", "status", "--json", GEMMA_MCP_MODEL_DEFAULT="echo").stdout)
    assert (status["pid"], status["same_settings"]) == (own_engine.pid, True)
    stopped = gemma_mcp("engine", "stop")
    assert (stopped.returncode, stopped.stdout) == (0, "The engine has stopped.\n")
    assert own_engine.wait() == 0
    assert own_engine.communicate() == ("", "")


def test_an_engine_with_other_settings_is_said_to_have_them(gemma_mcp: Run, own_engine: subprocess.Popen[str]) -> None:
    told = gemma_mcp("engine", "status", GEMMA_MCP_MODEL_DEFAULT="echo", GEMMA_MCP_LLAMACPP_SLOTS="3")
    assert "It was started with other settings than these" in told.stdout
    assert own_engine.poll() is None


def test_a_second_engine_is_refused_in_one_sentence(gemma_mcp: Run, own_engine: subprocess.Popen[str]) -> None:
    second = gemma_mcp("engine", "run")
    assert second.returncode == 1
    assert second.stderr == "gemma-mcp: An engine is running already. `gemma-mcp engine status` shows it.\n"
    assert own_engine.poll() is None


def test_the_logs_are_shown_up_to_the_number_of_lines_asked_for(
    gemma_mcp: Run, own_engine: subprocess.Popen[str], tmp_path: Path
) -> None:
    path = tmp_path / "home" / "logs" / "engine.log"
    lines = gemma_mcp("engine", "logs").stdout.splitlines()
    assert lines[0] == f"==> {path}"
    assert f"process {own_engine.pid}, port " in lines[1]
    assert gemma_mcp("engine", "logs", "-n", "0").stdout.splitlines() == [f"==> {path}"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process alone")
def test_ctrl_c_ends_an_engine_quietly(own_engine: subprocess.Popen[str]) -> None:
    own_engine.send_signal(signal.SIGINT)
    assert own_engine.wait() in (0, 130)
    assert own_engine.communicate() == ("", "")
