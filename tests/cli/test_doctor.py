import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from gemma_mcp import hardware
from gemma_mcp.cli import checks
from gemma_mcp.cli.checks import Finding, examine
from gemma_mcp.cli.invocation import Invocation
from gemma_mcp.engine.registry import GROUP, Registry

Run = Callable[..., subprocess.CompletedProcess[str]]
INSTALL = "pip install some-runtime"


class Absent:
    """A backend whose runtime is not installed."""

    name = "absent"
    formats = ("gguf",)

    def missing(self) -> str | None:
        return INSTALL


class Present(Absent):
    """One that is installed, but not in the child process that asks for devices: it is declared in this test alone."""

    name = "present"

    def missing(self) -> str | None:
        return None


def registry(**classes: str) -> Registry:
    return Registry(EntryPoint(name, f"test_doctor:{value}", GROUP) for name, value in classes.items())


async def look(home: Path, backends: Registry | None = None, **environ: str) -> dict[str, Finding]:
    given = Invocation({"GEMMA_MCP_HOME": str(home), **environ})
    return {finding.topic: finding for finding in await examine(given, backends or registry())}


def test_each_line_has_a_mark_and_each_trouble_its_fix(gemma_mcp: Run) -> None:
    done = gemma_mcp("doctor")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    marked = [line for line in lines if line.split()[0] in ("ok", "warning", "error")]
    fixes = [line for line in lines if line.lstrip().startswith("→ ")]
    assert len(marked) + len(fixes) == len(lines)
    for topic in ("Python", "configuration", "runtime llamacpp", "devices llamacpp", "model", "memory", "engine"):
        assert any(line[9:].startswith(topic) for line in marked), topic
    troubles = [index for index, line in enumerate(lines) if line.startswith(("warning", "error"))]
    assert all(lines[index + 1].lstrip().startswith("→ ") for index in troubles)
    assert "echo" not in done.stdout


def test_programs_can_read_it_and_an_error_is_exit_code_1(gemma_mcp: Run) -> None:
    done = gemma_mcp("doctor", "--json", "--set", "model.default=/nowhere/gemma.gguf")
    assert done.returncode == 1
    findings = {finding["topic"]: finding for finding in json.loads(done.stdout)}
    assert findings["model"]["status"] == "error"
    assert "/nowhere/gemma.gguf" in findings["model"]["text"]
    assert findings["Python"] == {
        "topic": "Python",
        "status": "ok",
        "text": findings["Python"]["text"],
        "fix": "",
    }


async def test_a_wrong_configuration_does_not_keep_it_from_looking_at_the_rest(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[engine]\nprot = 1\n", encoding="utf-8")
    found = await look(tmp_path)
    assert found["configuration"].status == "error"
    assert "config.toml:2: engine.prot" in found["configuration"].text
    assert found["configuration"].fix == "Did you mean engine.port?"
    assert {"Python", "state folder", "memory"} <= set(found)
    assert not {"model", "engine"} & set(found)


async def test_a_wrong_home_is_told_and_the_rest_is_looked_at() -> None:
    found = await look(Path("relative"))
    assert found["configuration"].status == "error"
    assert "state folder" not in found


async def test_settings_that_were_changed_are_named(tmp_path: Path) -> None:
    found = await look(tmp_path, GEMMA_MCP_LLAMACPP_SLOTS="2")
    assert found["configuration"].text.endswith("which does not exist; changed settings: llamacpp.slots")


async def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file", encoding="utf-8")
    found = await look(tmp_path / "home")
    assert found["state folder"].status == "error"
    assert found["state folder"].text == f"{tmp_path / 'home'} is not a folder"
    assert "GEMMA_MCP_HOME" in found["state folder"].fix


async def test_a_folder_that_may_not_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: int) -> bool:
        return False

    monkeypatch.setattr(checks.os, "access", refuse)  # root may write everywhere
    found = await look(tmp_path)
    assert found["log folder"].status == "error"
    assert found["log folder"].text == f"{tmp_path} is not writable"


async def test_without_any_backend_the_installation_is_broken(tmp_path: Path) -> None:
    found = await look(tmp_path)
    assert found["runtime"].status == "error"


async def test_a_missing_runtime_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    found = await look(tmp_path, registry(absent="Absent"))
    assert found["runtime absent"].status == "error"
    assert INSTALL in found["runtime absent"].fix
    assert "devices absent" not in found


async def test_one_runtime_is_enough(tmp_path: Path) -> None:
    found = await look(tmp_path, registry(absent="Absent", present="Present"))
    assert found["runtime absent"].status == "warning"
    assert found["runtime present"].status == "ok"


async def test_a_backend_that_cannot_be_imported_is_an_error(tmp_path: Path) -> None:
    found = await look(tmp_path, registry(broken="NothingLikeThis"))
    assert found["runtime broken"].status == "error"


async def test_devices_that_cannot_be_listed_are_an_error(tmp_path: Path) -> None:
    found = await look(tmp_path, registry(present="Present"))
    assert found["devices present"].status == "error"
    assert found["devices present"].fix


@pytest.mark.parametrize(("name", "status"), [("Absent", "warning"), ("Present", "ok")])
async def test_a_compiler_matters_as_long_as_a_runtime_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, status: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = await look(tmp_path, registry(some=name))
    assert found["compiler"].status == status
    assert bool(found["compiler"].fix) == (status == "warning")


async def test_a_compiler_is_found(tmp_path: Path) -> None:
    found = await look(tmp_path, registry(absent="Absent"))
    assert found["compiler"].status == ("ok" if any(map(shutil.which, ("c++", "g++", "clang++", "cl"))) else "warning")


async def test_a_truncated_model_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "gemma.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 100, 100))
    found = await look(tmp_path, GEMMA_MCP_MODEL_DEFAULT=str(path))
    assert found["model"].status == "error"
    assert "gemma" in found["model"].text


async def test_the_starter_is_a_warning_that_says_what_to_do(tmp_path: Path) -> None:
    found = await look(tmp_path)
    assert found["model"].status == "warning"
    assert "GEMMA_MCP_MODEL_DEFAULT" in found["model"].fix


async def test_the_model_for_tests_is_ok(tmp_path: Path) -> None:
    found = await look(tmp_path, GEMMA_MCP_MODEL_DEFAULT="echo")
    assert found["model"].status == "ok"


@pytest.mark.parametrize(
    ("gibibytes", "model", "status"),
    [(0, "starter", "error"), (2, "starter", "warning"), (2, "echo", "warning"), (64, "starter", "ok")],
)
async def test_memory_is_compared_with_what_the_model_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gibibytes: int, model: str, status: str
) -> None:
    room = gibibytes << 30
    monkeypatch.setattr(checks, "measure", lambda: hardware.Hardware(4, 8, 64 << 30, room))
    found = await look(tmp_path, GEMMA_MCP_MODEL_DEFAULT=model)
    assert found["memory"].status == status
    assert bool(found["memory"].fix) == (status != "ok")


async def test_a_32_bit_python_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    found = await look(tmp_path)
    assert found["Python"].status == "error"
    assert "64-bit" in found["Python"].fix


def test_a_running_engine_is_described_and_other_settings_are_a_warning(
    gemma_mcp: Run, own_engine: subprocess.Popen[str]
) -> None:
    same = gemma_mcp("doctor", "--json", GEMMA_MCP_MODEL_DEFAULT="echo")
    other = gemma_mcp("doctor", "--json", GEMMA_MCP_MODEL_DEFAULT="echo", GEMMA_MCP_LLAMACPP_SLOTS="3")
    (same_engine, other_engine) = (json.loads(done.stdout)[-1] for done in (same, other))
    assert same_engine["status"] == "ok"
    assert f"running, pid {own_engine.pid}, " in same_engine["text"]
    assert other_engine["status"] == "warning"
    assert "other settings" in other_engine["text"]
    assert other_engine["fix"].startswith("gemma-mcp engine stop")


async def test_an_engine_of_another_release_is_a_warning(
    tmp_path: Path, own_engine: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "WIRE_VERSION", checks.WIRE_VERSION + 1)
    found = await look(tmp_path / "home")
    assert found["engine"].status == "warning"
    assert "another release" in found["engine"].text
    assert own_engine.poll() is None
