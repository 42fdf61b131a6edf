import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from gemma_mcp import __version__
from gemma_mcp.cli import app, main
from gemma_mcp.cli.console import first_of_ours, size
from gemma_mcp.cli.invocation import parse_overrides
from gemma_mcp.errors import ConfigError, RequestError

Run = Callable[..., subprocess.CompletedProcess[str]]


def write_config(home: Path, text: str) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(text, encoding="utf-8")


def test_the_version_is_told(gemma_mcp: Run) -> None:
    done = gemma_mcp("--version")
    assert (done.returncode, done.stdout) == (0, f"gemma-mcp, version {__version__}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["engine", "--help"], ["serve", "--help"]])
def test_help_is_given_without_any_runtime(gemma_mcp: Run, arguments: list[str]) -> None:
    done = gemma_mcp(*arguments)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: gemma-mcp")
    assert done.stderr == ""


def test_config_prints_every_setting_with_its_value_and_origin(gemma_mcp: Run, tmp_path: Path) -> None:
    write_config(tmp_path / "home", '[model]\ndefault = "/models/gémma.gguf"\n')
    done = gemma_mcp("--set", "engine.port=8080", "config", GEMMA_MCP_LLAMACPP_SLOTS="2")
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert lines[0] == f"Your file: {tmp_path / 'home' / 'config.toml'}"
    table = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines[1:]}
    assert table["model.default"] == ['"/models/gémma.gguf"', f"{tmp_path / 'home' / 'config.toml'}:2"]
    assert table["llamacpp.slots"] == ["2", "GEMMA_MCP_LLAMACPP_SLOTS"]
    assert table["engine.port"] == ["8080", "--set"]
    assert table["engine.keep_alive"] == ["600.0", "default"]


def test_config_says_that_there_is_no_file_yet(gemma_mcp: Run) -> None:
    assert gemma_mcp("config").stdout.splitlines()[0].endswith("config.toml (does not exist yet)")


def test_config_as_json_can_be_read_by_programs(gemma_mcp: Run) -> None:
    told = json.loads(gemma_mcp("config", "--json", "--set=engine.port=1").stdout)
    port = next(setting for setting in told["settings"] if setting["key"] == "engine.port")
    assert port == {"key": "engine.port", "value": 1, "origin": {"kind": "flag", "where": "--set", "line": None}}


def test_set_may_stand_before_and_after_the_command(gemma_mcp: Run) -> None:
    done = gemma_mcp("--set", "engine.port=1", "config", "--set", "llamacpp.slots=2")
    assert done.returncode == 0
    assert done.stdout.count("--set") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "engine.prot=1", "config"],
            "--set: engine.prot: there is no such setting. Did you mean engine.port?",
        ),
        (["config", "--set", "x"], "--set: 'x': this is not of the form key=value. Example: --set engine.port=0"),
        (
            ["--set", "engine.port=1", "config", "--set", "engine.port=2"],
            "--set: engine.port: this is given twice.",
        ),
        (["serve", "--set=engine.port=x"], "--set: engine.port: this must be a whole number from 0 up to 65535"),
        (["--set=x", "serve"], "--set: 'x': this is not of the form key=value."),
    ],
)
def test_a_wrong_setting_is_one_sentence_and_exit_code_2(gemma_mcp: Run, arguments: list[str], message: str) -> None:
    done = gemma_mcp(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"gemma-mcp: {message}")
    assert len(done.stderr.splitlines()) == 1


def test_a_wrong_file_is_named_with_its_line(gemma_mcp: Run, tmp_path: Path) -> None:
    write_config(tmp_path / "home", "[engine]\nport = 'x'\n")
    done = gemma_mcp("config")
    assert done.returncode == 2
    assert f"{tmp_path / 'home' / 'config.toml'}:2: engine.port: this must be" in done.stderr


def test_a_relative_home_is_refused(gemma_mcp: Run) -> None:
    done = gemma_mcp("config", GEMMA_MCP_HOME="some/folder")
    assert done.returncode == 2
    assert done.stderr == "gemma-mcp: environment: GEMMA_MCP_HOME: 'some/folder' is not an absolute path.\n"


@pytest.mark.parametrize("arguments", [["serv"], ["config", "--jsn"], ["engine", "logs", "-n", "many"]])
def test_wrong_usage_is_exit_code_2(gemma_mcp: Run, arguments: list[str]) -> None:
    done = gemma_mcp(*arguments)
    assert done.returncode == 2
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_output_is_utf8_whatever_the_console_is_set_to(gemma_mcp: Run, tmp_path: Path) -> None:
    write_config(tmp_path / "home", '[model]\ndefault = "模型 ✓"\n')
    done = gemma_mcp("config", PYTHONIOENCODING="cp1252", PYTHONUTF8="0", LC_ALL="C")
    assert done.returncode == 0
    assert "模型 ✓" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="Windows has no bytes in its environment")
def test_bytes_that_are_no_text_are_refused(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from gemma_mcp.cli.main import main; main()", "config"],
        env={
            **{os.fsencode(name): os.fsencode(value) for name, value in environment.items()},
            b"GEMMA_MCP_MODEL_DEFAULT": b"/models/\xff",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    message = b'GEMMA_MCP_MODEL_DEFAULT: model.default: this must be valid Unicode, not "/models/\\udcff".'
    assert done.stderr == b"gemma-mcp: " + message + os.linesep.encode()


def test_a_reader_that_leaves_early_hears_nothing_more(environment: dict[str, str]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-c", "from gemma_mcp.cli.main import main; main()", "config"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(write)
    assert done.stderr == b""


def test_ctrl_c_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "app", interrupted)
    with pytest.raises(SystemExit) as left:
        main.main(["config"])
    assert left.value.code == 130
    assert capsys.readouterr() == ("", "")


def test_an_error_out_of_a_task_group_is_told_like_any_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(_: list[str]) -> int:
        raise ExceptionGroup(
            "tasks", [ValueError("x"), ExceptionGroup("more", [RequestError("It is so.", "Do this.")])]
        )

    monkeypatch.setattr(app, "app", failing)
    with pytest.raises(SystemExit) as left:
        main.main(["config"])
    assert left.value.code == 1
    assert capsys.readouterr().err == "gemma-mcp: It is so. Do this.\n"


def test_a_fault_of_the_program_is_not_hidden() -> None:
    with pytest.raises(ExceptionGroup, match="tasks"):
        first_of_ours(ExceptionGroup("tasks", [ValueError("x")]))


def test_click_errors_show_their_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main.main(["nothing-like-this"])
    assert left.value.code == click.UsageError.exit_code
    assert "No such command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "overrides"),
    [
        ([], None),
        (["config"], None),
        (["serve", "--help"], None),
        (["serve"], []),
        (["serve", "--set", "a.b=c"], ["a.b=c"]),
        (["--set=a.b=c", "serve", "--set", "d.e=f"], ["a.b=c", "d.e=f"]),
        (["serve", "--set"], [""]),
    ],
)
def test_serve_is_recognised_before_anything_is_imported(arguments: list[str], overrides: list[str] | None) -> None:
    assert main.serve_overrides(arguments) == overrides


def test_starting_imports_nothing_that_is_big(environment: dict[str, str]) -> None:
    code = "import sys, gemma_mcp.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert not {"click", "pydantic", "mcp", "anyio", "msgspec", "PIL"} & set(done.stdout.split())


def test_overrides_keep_their_equals_signs() -> None:
    assert parse_overrides(["server.root=/a=b", " engine.port =1"]) == {"server.root": "/a=b", "engine.port": "1"}
    with pytest.raises(ConfigError):
        parse_overrides(["a.b=1", "a.b=2"])


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (150 << 20, "150 MiB"),
        (3 << 30, "3.0 GiB"),
        (9 << 40, "9.0 TiB"),
    ],
)
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert size(count) == text
