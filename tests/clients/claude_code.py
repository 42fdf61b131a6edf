"""Claude Code with a folder of its own for a home, without a login, and without any service but the one it is given."""

import contextlib
import json
import os
import subprocess
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from messages_api import KEY, MessagesApi

from gemma_mcp.testing.engines import EngineHome

if TYPE_CHECKING:
    from terminal import Terminal

__all__ = ["ClaudeCode", "output_of", "servers_of"]

QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
    # Whatever else would leave the machine finds nobody.
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1",
    # Milliseconds that a busy machine may take to start our server, before the first question is sent.
    "MCP_TIMEOUT": "60000",
    "MCP_CONNECT_TIMEOUT_MS": "60000",
}

SECONDS = 120
"""After which a run is given up."""


@dataclass(frozen=True)
class ClaudeCode:
    """The program, its user's folder and the project it works in. `server` is our entry in the MCP configuration."""

    program: Path
    home: Path
    project: Path
    path: str
    server: Mapping[str, object]

    def start(self, api: MessagesApi) -> subprocess.Popen[str]:
        """One question, answered without a screen."""
        output = ["--output-format", "stream-json", "--verbose"]
        return subprocess.Popen(
            [*self._command("-p", "Go on."), *output],
            cwd=self.project,
            env=self._environment(api),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )

    def ask(self, api: MessagesApi) -> str:
        """The same, waited for: what it printed."""
        return output_of(self.start(api))

    @contextlib.contextmanager
    def on_screen(self, api: MessagesApi) -> Generator["Terminal"]:
        """The program before a user, who has answered the questions of its first start."""
        from terminal import in_terminal  # which Windows cannot import

        project = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
        known = {
            "hasCompletedOnboarding": True,
            "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []},
            "projects": {str(self.project): project},
        }
        (self.home / ".claude.json").write_text(json.dumps(known), encoding="utf-8")
        with in_terminal(self._command(), self.project, self._environment(api)) as terminal:
            terminal.wait_for("❯")
            yield terminal

    def _command(self, *arguments: str) -> Sequence[str]:
        config = self.home / "mcp.json"
        config.write_text(json.dumps({"mcpServers": {"gemma": self.server}}), encoding="utf-8")
        ours = ["--mcp-config", str(config), "--strict-mcp-config", "--allowedTools", "mcp__gemma__*"]
        return [str(self.program), *arguments, *ours]

    def _environment(self, api: MessagesApi) -> dict[str, str]:
        """CI goes too: a program that sees it draws no screen."""
        strange = ("GEMMA_MCP_", "CLAUDE", "ANTHROPIC_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(strange) and name != "CI"}
        service = {"ANTHROPIC_BASE_URL": api.url, "ANTHROPIC_API_KEY": KEY}
        return {**inherited, **QUIET, **service, "HOME": str(self.home), "PATH": self.path}


def output_of(process: subprocess.Popen[str]) -> str:
    """What a run printed, once it has ended well."""
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(process.communicate()[0]) from None
    assert process.returncode == 0, output
    return output


def servers_of(home: EngineHome) -> list[psutil.Process]:
    """The servers that clients have started in this home, without the engine behind them."""
    return [process for process in home.processes() if process.cmdline()[1:] == ["-m", "gemma_mcp"]]
