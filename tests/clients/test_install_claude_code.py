import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

pytestmark = pytest.mark.clients

Client = Callable[..., subprocess.CompletedProcess[str]]
CLI = [sys.executable, "-c", "from gemma_mcp.cli.main import main; main()"]


@pytest.fixture
def install(node_tools: Mapping[str, str], server_environment: dict[str, str], project: Path, tmp_path: Path) -> Client:
    """Run `gemma-mcp install` beside the client: same user's folder, same project."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GEMMA_MCP_", "CLAUDE"))}

    def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CLI, "install", *arguments],
            cwd=project,
            env={**inherited, **node_tools, "HOME": str(tmp_path), **server_environment, **changes},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )

    return run


def line_of(name: str, done: subprocess.CompletedProcess[str]) -> str:
    return next((line for line in done.stdout.splitlines() if line.startswith(f"{name}: ")), "")


def entries(tmp_path: Path) -> dict[str, dict[str, object]]:
    return json.loads((tmp_path / ".claude.json").read_text(encoding="utf-8")).get("mcpServers", {})


def test_an_installed_server_connects_and_is_gone_after_its_removal(
    run_client: Client, install: Client, tmp_path: Path
) -> None:
    added = install("claude-code", "--set", "model.default=echo")
    assert added.returncode == 0, added.stdout + added.stderr
    assert "Claude Code: added" in added.stdout
    line = line_of("gemma", run_client("claude", "mcp", "list"))
    assert f"{sys.executable} -m gemma_mcp" in line
    assert line.endswith("Connected")
    assert "Failed" not in line
    again = install("claude-code", "--set", "model.default=echo")
    assert "already there, unchanged" in again.stdout
    removed = install("claude-code", "--remove")
    assert removed.returncode == 0, removed.stdout + removed.stderr
    assert line_of("gemma", run_client("claude", "mcp", "list")) == ""
    assert entries(tmp_path) == {}


def test_another_entry_is_replaced_through_the_command(run_client: Client, install: Client, tmp_path: Path) -> None:
    run_client("claude", "mcp", "add", "--scope", "user", "gemma", "--", "other-program")
    refused = install("claude-code")
    assert refused.returncode == 2
    assert entries(tmp_path)["gemma"]["command"] == "other-program"
    assert install("claude-code", "--force").returncode == 0
    assert entries(tmp_path)["gemma"]["command"] == sys.executable


def test_without_its_command_the_file_that_it_reads_is_edited(
    run_client: Client, install: Client, tmp_path: Path
) -> None:
    run_client("claude", "mcp", "list")
    before = (tmp_path / ".claude.json").read_bytes()
    assert install("claude-code", PATH="").returncode == 0
    line = line_of("gemma", run_client("claude", "mcp", "list"))
    assert line.endswith("Connected")
    assert json.loads(before).keys() <= json.loads((tmp_path / ".claude.json").read_bytes()).keys()


def test_a_projects_file_is_the_one_that_is_read(run_client: Client, install: Client) -> None:
    assert install("claude-code", "--scope", "project").returncode == 0
    line = line_of("gemma", run_client("claude", "mcp", "list"))
    assert sys.executable in line
    assert "Pending approval" in line
