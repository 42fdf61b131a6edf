import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

from gemma_mcp.places import Places
from gemma_mcp.state import EngineState, read_state

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


STUCK = """
import threading
from gemma_mcp.engine import specs

def never(*_):
    threading.Event().wait()

specs.find_model = never  # as on a network drive whose server is gone
from gemma_mcp.cli.main import main
main()
"""


ROUTES = {
    "/v1/models": None,
    "/v1/completions": {"model": "echo", "prompt": "hi"},
    "/v1/tokens/count": {"model": "echo", "texts": ["hi"]},
}


@pytest.mark.parametrize("path", ROUTES)
def test_an_engine_with_a_thread_that_is_stuck_ends_all_the_same(
    gemma_mcp: Run, environment: dict[str, str], path: str
) -> None:
    with subprocess.Popen([sys.executable, "-c", STUCK, "engine", "run"], env=environment) as engine:
        state = _started(engine, gemma_mcp, environment)
        connection = HTTPConnection("127.0.0.1", state.port)
        method = "POST" if ROUTES[path] else "GET"
        headers = {"authorization": f"Bearer {state.token}"}
        connection.request(method, path, json.dumps(ROUTES[path]), headers)
        threads = psutil.Process(engine.pid).num_threads
        while threads() < 2:
            assert engine.poll() is None
        stopped = gemma_mcp("engine", "stop")
        assert (stopped.stdout, stopped.stderr) == ("The engine has stopped.\n", "")
        assert engine.poll() == 0
        connection.close()
    log = gemma_mcp("engine", "logs").stdout
    assert "The engine has ended" in log
    assert "Threads that do not end are left behind: AnyIO worker thread" in log
    assert "Traceback" not in log


def _started(engine: subprocess.Popen[bytes], gemma_mcp: Run, environment: dict[str, str]) -> EngineState:
    while gemma_mcp("engine", "status").returncode != 0:
        assert engine.poll() is None
    state = read_state(Places.find(environment))
    assert state is not None
    return state


@pytest.mark.skipif(os.name == "nt", reason="suspended processes are POSIX")
def test_an_engine_that_does_not_answer_is_told_from_none_and_can_be_stopped(
    gemma_mcp: Run, own_engine: subprocess.Popen[str]
) -> None:
    psutil.Process(own_engine.pid).suspend()
    status = gemma_mcp("engine", "status")
    assert (status.returncode, status.stdout) == (1, "")
    assert f"The engine (process {own_engine.pid}) is running, but did not answer within" in status.stderr
    assert gemma_mcp("engine", "stop").stdout == "The engine has stopped.\n"
    assert own_engine.poll() == -signal.SIGKILL
