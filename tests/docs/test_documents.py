"""Documents keep their word: commands run, links lead somewhere, files that others read are valid."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gemma_mcp import __version__
from gemma_mcp.settings_sources import load_settings, setting_types, variable

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

NOT_RUN_HERE = {
    "make demo": "builds the environment that these tests run in; its last step is run by tests/cli/test_demo.py",
    "make check": "runs the checks, once for each change, not inside a test",
    "make test": "would run this test inside itself",
    "make coverage": "would run this test inside itself",
    'claude mcp add gemma -- "$PWD/.venv/bin/python" -m gemma_mcp': "run by tests/clients/test_claude_code.py",
    "claude mcp list": "run by tests/clients/test_claude_code.py",
    "gemma-mcp chat": "needs a person; run by tests/cli/test_chat_terminal.py",
    'echo "What is the capital of France?" | gemma-mcp chat': "run by tests/cli/test_chat_command.py",
    'git diff | gemma-mcp chat "Write a commit message."': "run by tests/cli/test_chat_command.py",
    'gemma-mcp chat --file src/app.py:10-80 "What does this do?"': "run by tests/cli/test_chat_command.py",
    'gemma-mcp chat --continue "And shorter?"': "run by tests/cli/test_chat_command.py",
    "gemma-mcp sessions show s-4f1c09aa": "needs a session; run by tests/cli/test_sessions_command.py",
    "gemma-mcp sessions delete s-4f1c09aa": "needs a session; run by tests/cli/test_sessions_command.py",
    "gemma-mcp bench --synthetic gemma-3-1b": "takes an hour; run small by tests/cli/test_bench_command.py",
    "claude mcp add gemma -e GEMMA_MCP_MODEL_DEFAULT=/path/to/gemma-3-4b-it-Q4_0.gguf "
    '-- "$PWD/.venv/bin/python" -m gemma_mcp': "needs a model that is downloaded; run without one by tests/clients",
}
EXIT_CODES = {"gemma-mcp engine status": 1, "gemma-mcp doctor": 0}
"""Where nothing runs yet, `status` says so with its exit code."""


def user_folders(folder: Path) -> dict[str, str]:
    """The user's folder is this one: `install` writes to it. It has a place for what is temporary, too: `install` warns
    of environments in the usual one, where this checkout may stand.
    """
    scratch = folder / "scratch"
    scratch.mkdir()
    own = ("HOME", "USERPROFILE", "APPDATA", "XDG_CONFIG_HOME", "CODEX_HOME")
    temporary = ("TMPDIR", "TEMP", "TMP")
    return {name: str(folder) for name in own} | {name: str(scratch) for name in temporary}


def commands() -> list[str]:
    found: list[str] = []
    for document in DOCUMENTS:
        for block in re.findall(
            r"^```console\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        ):
            found += [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    return list(dict.fromkeys(found))


def test_every_reason_not_to_run_a_command_is_still_needed() -> None:
    assert set(NOT_RUN_HERE) <= set(commands())


@pytest.mark.parametrize("command", [command for command in commands() if command not in NOT_RUN_HERE])
def test_a_documented_command_works(command: str, tmp_path: Path) -> None:
    program, *arguments = shlex.split(command)
    assert program == "gemma-mcp", f"say in NOT_RUN_HERE why {command!r} is not run, or run it"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GEMMA_MCP_")}
    done = subprocess.run(
        [sys.executable, "-m", "gemma_mcp", *arguments],
        env={**inherited, **user_folders(tmp_path), "GEMMA_MCP_HOME": str(tmp_path / "gemma-mcp")},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == EXIT_CODES.get(command, 0), done.stdout + done.stderr
    assert done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert not [target for target in targets if not (document.parent / target).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_settings_and_variables_that_are_named_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    known = {variable(key) for key in setting_types()} | {"GEMMA_MCP_HOME", "GEMMA_MCP_CONFIG"}
    assert set(re.findall(r"\bGEMMA_MCP_[A-Z_]+\b", text)) <= known
    sections = "|".join({key.split(".")[0] for key in setting_types()})
    named = set(re.findall(rf"`((?:{sections})\.[a-z_]+)`", text)) - {"server.json"}
    assert named <= set(setting_types())


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = {name for document in DOCUMENTS for name in re.findall(r"[`$] ?make ([a-z]+)", document.read_text("utf-8"))}
    assert named
    assert named <= targets


def test_the_example_of_a_client_configuration_starts_the_server_with_valid_settings(tmp_path: Path) -> None:
    example = json.loads((ROOT / "mcp.json.example").read_text(encoding="utf-8"))
    (server,) = example["mcpServers"].values()
    assert server["args"] == ["-m", "gemma_mcp"]
    loaded = load_settings({**server["env"], "GEMMA_MCP_HOME": str(tmp_path)})  # as from a client that expands nothing
    assert loaded.settings.model.default == "starter"


def test_the_registry_entry_is_valid_and_of_this_version() -> None:
    """The rules of the registry's schema 2025-12-11 that concern this entry."""
    entry = json.loads((ROOT / "server.json").read_text(encoding="utf-8"))
    assert entry["$schema"] == "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", entry["name"])
    assert 1 <= len(entry["description"]) <= 100
    assert f"<!-- mcp-name: {entry['name']} -->" in (ROOT / "README.md").read_text(encoding="utf-8")
    (package,) = entry["packages"]
    assert entry["version"] == package["version"] == __version__
    assert {"registryType", "identifier", "transport"} <= set(package)
    assert package["transport"] == {"type": "stdio"}
    known = {variable(key) for key in setting_types()} | {"GEMMA_MCP_HOME"}
    assert {named["name"] for named in package["environmentVariables"]} <= known


def test_the_registry_entry_asks_for_the_runtime_that_the_package_declares() -> None:
    entry = json.loads((ROOT / "server.json").read_text(encoding="utf-8"))
    (argument,) = entry["packages"][0]["runtimeArguments"]
    assert f'"{argument["value"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_changelog_has_a_place_for_what_is_not_released() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[Unreleased\]$", text, re.MULTILINE)
