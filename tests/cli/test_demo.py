import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil

Run = Callable[..., subprocess.CompletedProcess[str]]


def engine_pid(gemma_mcp: Run) -> int:
    return json.loads(gemma_mcp("engine", "status", "--json", GEMMA_MCP_MODEL_DEFAULT="echo").stdout)["pid"]


def left_over(folder: Path) -> list[str]:
    """Demos' folders and processes."""
    processes: list[str] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("GEMMA_MCP_HOME", "").startswith(str(folder / "gemma-mcp-demo-")):
                processes.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return [*processes, *map(str, folder.glob("gemma-mcp-demo-*"))]


def shown_in_readme() -> set[str]:
    """The calls and answers of the transcript. (docs/write_transcript.py makes it anew.)"""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    transcript = readme.partition("<!-- transcript -->")[2].partition("<!-- /transcript -->")[0]
    lines = {line for line in transcript.splitlines() if re.match(r"\d+\. |   > ", line)}
    assert len(lines) >= 16
    return lines


def test_all_four_tools_answer_rightly_beside_an_engine_of_the_users_own(
    gemma_mcp: Run, own_engine: subprocess.Popen[str], tmp_path: Path
) -> None:
    before = engine_pid(gemma_mcp)
    done = gemma_mcp("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tools: generate_text, complete_code, analyze_image, chat" in done.stdout
    for tool in ("generate_text", "complete_code", "analyze_image", "chat"):
        assert f". {tool}: " in done.stdout
    assert "   > The capital of France is Paris." in done.stdout
    assert done.stdout.count("progress notifications, the last: ") == 8
    assert done.stdout.count("[starter · ") == 8
    assert "8 of 8 answers are right." in done.stdout
    assert "claude mcp add gemma -- " in done.stdout
    assert engine_pid(gemma_mcp) == before
    assert shown_in_readme() <= set(done.stdout.splitlines())
    assert left_over(tmp_path) == []


def test_wrong_answers_are_shown_and_end_with_exit_code_1(gemma_mcp: Run, tmp_path: Path) -> None:
    done = gemma_mcp("demo", "--model", "echo")
    assert done.returncode == 1
    assert "wrong: expected Paris" in done.stdout
    assert "claude mcp add" not in done.stdout
    assert left_over(tmp_path) == []


def test_a_tool_that_fails_is_shown_with_its_reason(gemma_mcp: Run, tmp_path: Path) -> None:
    done = gemma_mcp("demo", "--model", "nothing-like-this")
    assert done.returncode == 1
    assert "> There is no model 'nothing-like-this' here." in done.stdout
    assert "0 of 8 answers are right." in done.stdout
    assert left_over(tmp_path) == []


def test_a_server_that_does_not_start_is_one_sentence(gemma_mcp: Run, tmp_path: Path) -> None:
    code = "import os, sys\nif 'gemma_mcp' in sys.orig_argv:\n    os._exit(3)\n"
    (tmp_path / "sitecustomize.py").write_text(code, encoding="utf-8")
    done = gemma_mcp("demo", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("gemma-mcp: The server did not do its part: ")
    assert "Traceback" not in done.stderr
    assert left_over(tmp_path) == []


def test_wrong_settings_are_told_before_anything_starts(gemma_mcp: Run) -> None:
    done = gemma_mcp("demo", GEMMA_MCP_LLAMACPP_SLOTS="many")
    assert done.returncode == 2
    assert done.stdout == ""
