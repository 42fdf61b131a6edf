"""Where each client keeps its configuration on each platform, and which interpreter it is told to start."""

import sys
from pathlib import Path

import pytest
from client_files import LINUX

from gemma_mcp.cli.install import NAMES
from gemma_mcp.cli.installation.clients import CLIENTS, Scope, Surroundings, find_client, installed
from gemma_mcp.cli.installation.entry import Entry, check_start, interpreter, is_passing
from gemma_mcp.errors import ConfigError, UnsupportedError

MAC = LINUX | {
    "claude-desktop": "Library/Application Support/Claude/claude_desktop_config.json",
    "vscode": "Library/Application Support/Code/User/mcp.json",
}
WINDOWS = LINUX | {
    "claude-desktop": "AppData/Roaming/Claude/claude_desktop_config.json",
    "vscode": "AppData/Roaming/Code/User/mcp.json",
}


def around(home: Path, platform: str, **environ: str) -> Surroundings:
    return Surroundings(platform, {"PATH": "", **environ}, home, home / "project")


def files(home: Path, platform: str, scope: Scope = "user", **environ: str) -> dict[str, str]:
    seen = around(home, platform, **environ)
    found = {client.name: client.file(scope, seen) for client in CLIENTS}
    return {name: path.relative_to(home).as_posix() for name, path in found.items() if path}


@pytest.mark.parametrize(("platform", "expected"), [("linux", LINUX), ("darwin", MAC), ("win32", WINDOWS)])
def test_each_platform_has_its_places(tmp_path: Path, platform: str, expected: dict[str, str]) -> None:
    assert files(tmp_path, platform) == expected
    assert tuple(expected) == NAMES


def test_a_project_has_the_same_ones_everywhere(tmp_path: Path) -> None:
    expected = {
        "claude-code": "project/.mcp.json",
        "cursor": "project/.cursor/mcp.json",
        "vscode": "project/.vscode/mcp.json",
        "codex": "project/.codex/config.toml",
        "gemini": "project/.gemini/settings.json",
    }
    for platform in ("linux", "darwin", "win32"):
        assert files(tmp_path, platform, "project") == expected


def test_the_environment_moves_them(tmp_path: Path) -> None:
    there = str(tmp_path / "there")
    moved = files(tmp_path, "linux", XDG_CONFIG_HOME=there, CLAUDE_CONFIG_DIR=there, CODEX_HOME=there)
    assert moved["vscode"] == "there/Code/User/mcp.json"
    assert moved["claude-desktop"] == "there/Claude/claude_desktop_config.json"
    assert moved["claude-code"] == "there/.claude.json"
    assert moved["codex"] == "there/config.toml"
    assert files(tmp_path, "win32", APPDATA=there)["vscode"] == "there/Code/User/mcp.json"
    assert files(tmp_path, "linux", XDG_CONFIG_HOME="relative") == LINUX
    assert files(tmp_path, "darwin", XDG_CONFIG_HOME=there) == MAC


def test_claude_desktop_as_a_windows_package_reads_a_file_of_its_own(tmp_path: Path) -> None:
    local = tmp_path / "AppData" / "Local"
    first, second = (
        local / "Packages" / name / "LocalCache" / "Roaming" / "Claude" for name in ("Claude_a", "Claude_b")
    )
    first.mkdir(parents=True)
    second.mkdir(parents=True)
    assert files(tmp_path, "win32")["claude-desktop"].startswith("AppData/Local/Packages/Claude_a/LocalCache/Roaming/")
    (second / "claude_desktop_config.json").write_text("{}")
    assert files(tmp_path, "win32", LOCALAPPDATA=str(local))["claude-desktop"].startswith(
        "AppData/Local/Packages/Claude_b/"
    )


def test_clients_are_found_by_their_folders_and_their_programs(tmp_path: Path) -> None:
    assert list(installed(around(tmp_path, "linux"))) == []
    (tmp_path / ".gemini").mkdir()
    (tmp_path / "Library" / "Application Support" / "Claude").mkdir(parents=True)
    assert [client.name for client in installed(around(tmp_path, "darwin"))] == ["claude-desktop", "gemini"]
    program = tmp_path / ("codex.exe" if sys.platform == "win32" else "codex")
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    seen = around(tmp_path, "linux", PATH=str(tmp_path))
    assert [client.name for client in installed(seen)] == ["codex", "gemini"]


def test_entries_say_no_more_than_they_must() -> None:
    entry = Entry("/python", {})
    assert find_client("gemini").write(entry) == {"command": "/python", "args": ["-m", "gemma_mcp"]}
    assert find_client("vscode").write(Entry("/python", {"A": "b"})) == {
        "type": "stdio",
        "command": "/python",
        "args": ["-m", "gemma_mcp"],
        "env": {"A": "b"},
    }


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_virtual_environments_interpreter_is_named_by_its_own_path(tmp_path: Path) -> None:
    link = tmp_path / "venv" / "bin" / "python"
    link.parent.mkdir(parents=True)
    link.symlink_to(sys.executable)
    assert interpreter(str(link), sys.platform) == str(link)


def test_an_interpreter_of_windows_is_one_that_has_a_stdin() -> None:
    assert interpreter(r"C:\Users\A B\venv\Scripts\pythonw.exe", "win32") == r"C:\Users\A B\venv\Scripts\python.exe"
    assert interpreter(r"C:\Python\python.exe", "win32") == r"C:\Python\python.exe"
    with pytest.raises(UnsupportedError):
        interpreter("", "linux")


@pytest.mark.parametrize(
    ("path", "platform", "passing"),
    [
        ("/home/u/.cache/uv/archive-v0/Xy1/bin/python", "linux", True),
        (r"C:\Users\u\AppData\Local\uv\cache\archive-v0\Xy1\Scripts\python.exe", "win32", True),
        ("/home/u/.cache/uv/environments-v2/script-1/bin/python", "linux", True),
        ("/home/u/.local/pipx/.cache/d1/bin/python", "linux", True),
        ("/home/u/.local/share/pipx/venvs/gemma-mcp/bin/python", "linux", False),
        ("/home/u/.local/share/uv/tools/gemma-mcp/bin/python", "linux", False),
        ("/home/u/project/.venv/bin/python", "linux", False),
    ],
)
def test_environments_that_will_soon_be_gone_are_known(path: str, platform: str, passing: bool) -> None:
    assert is_passing(path, platform) == passing


def test_a_command_that_does_not_start_is_told(tmp_path: Path) -> None:
    check_start(Entry(sys.executable, {}))
    with pytest.raises(ConfigError, match=r"this does not start: .*No module named"):
        check_start(Entry(sys.executable, {}, ("-m", "gemma_mcp_of_another_name")))
    with pytest.raises(ConfigError, match="this does not start"):
        check_start(Entry(str(tmp_path / "python"), {}))
