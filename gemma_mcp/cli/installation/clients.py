"""Which clients there are, where each keeps its configuration, and how an entry looks there.

Sources, read on 2026-11-27: code.claude.com/docs/en/mcp, modelcontextprotocol.io/docs/develop/connect-local-servers,
cursor.com/docs/mcp, code.visualstudio.com/docs/agents/reference/mcp-configuration, developers.openai.com/codex/mcp,
geminicli.com/docs/tools/mcp-server; for Claude Desktop as a Windows package, anthropics/claude-code#26073.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gemma_mcp.cli.installation.documents import Document, JsonDocument, TomlDocument
from gemma_mcp.cli.installation.entry import Entry

__all__ = ["CLIENTS", "Client", "Scope", "Surroundings", "find_client", "installed"]

Scope = Literal["user", "project"]


@dataclass(frozen=True)
class Surroundings:
    """What decides where files are: `sys.platform`, the environment, the user's and the project's folder."""

    platform: str
    environ: Mapping[str, str]
    home: Path
    project: Path

    @property
    def settings(self) -> Path:
        """The folder in which desktop programs keep their settings."""
        if self.platform == "win32":
            return self.folder("APPDATA", self.home / "AppData" / "Roaming")
        if self.platform == "darwin":
            return self.home / "Library" / "Application Support"
        return self.folder("XDG_CONFIG_HOME", self.home / ".config")

    def folder(self, variable: str, otherwise: Path) -> Path:
        """The folder that an environment variable names. XDG and others ignore relative ones; so do we."""
        given = Path(self.environ.get(variable, ""))
        return given if given.is_absolute() else otherwise

    def program(self, name: str) -> str | None:
        """Where a program is found."""
        return shutil.which(name, path=self.environ.get("PATH", ""))


@dataclass(frozen=True)
class Client:
    """One client. `user` and `project` give its files; `traces` are what shows that it is installed.

    `typed`: entries say that they are of type stdio. `after` is what the user has to do then. Without a project
    (`has_project`) it starts servers in a folder that means nothing.
    """

    name: str
    title: str
    document: Document
    user: Callable[[Surroundings], Path]
    traces: Callable[[Surroundings], list[Path]]
    project: str | None = None
    program: str | None = None
    typed: bool = False
    after: str = ""
    has_project: bool = True

    def file(self, scope: Scope, around: Surroundings) -> Path | None:
        """The configuration file; None when there is none of that scope."""
        if scope == "user":
            return self.user(around)
        return around.project / self.project if self.project else None

    def write(self, entry: Entry) -> dict[str, Any]:
        """The entry as this client wants it."""
        written: dict[str, Any] = {"type": "stdio"} if self.typed else {}
        written |= {"command": entry.command, "args": list(entry.arguments)}
        return written | ({"env": dict(entry.variables)} if entry.variables else {})

    def is_installed(self, around: Surroundings) -> bool:
        """Whether anything of it is here."""
        found = self.program and around.program(self.program)
        return bool(found) or any(path.exists() for path in self.traces(around))


def installed(around: Surroundings) -> Iterator[Client]:
    """The clients of which something is here."""
    return (client for client in CLIENTS if client.is_installed(around))


def find_client(name: str) -> Client:
    """By its name, which is one of CLIENTS'."""
    return next(client for client in CLIENTS if client.name == name)


def _claude_code(around: Surroundings) -> Path:
    return around.folder("CLAUDE_CONFIG_DIR", around.home) / ".claude.json"


def _claude_desktop(around: Surroundings) -> Path:
    return _claude_desktop_folder(around) / "claude_desktop_config.json"


def _claude_desktop_folder(around: Surroundings) -> Path:
    """Windows gives packaged programs a view of their own of the usual folder; such a package wins where it is."""
    if around.platform == "win32":
        packages = around.folder("LOCALAPPDATA", around.home / "AppData" / "Local") / "Packages"
        views = sorted(path / "LocalCache" / "Roaming" / "Claude" for path in packages.glob("Claude_*"))
        existing = [view for view in views if (view / "claude_desktop_config.json").exists()]
        if views:
            return (existing or views)[0]
    return around.settings / "Claude"


def _code(around: Surroundings) -> Path:
    return around.settings / "Code" / "User"


def _codex(around: Surroundings) -> Path:
    return around.folder("CODEX_HOME", around.home / ".codex")


CLIENTS = (
    Client(
        name="claude-code",
        title="Claude Code",
        document=JsonDocument("mcpServers"),
        user=_claude_code,
        traces=lambda around: [_claude_code(around), around.home / ".claude"],
        project=".mcp.json",
        program="claude",
        typed=True,
        after="`claude mcp list` shows it.",
    ),
    Client(
        name="claude-desktop",
        title="Claude Desktop",
        document=JsonDocument("mcpServers"),
        user=_claude_desktop,
        traces=lambda around: [_claude_desktop_folder(around)],
        after="Quit Claude Desktop and start it again.",
        has_project=False,
    ),
    Client(
        name="cursor",
        title="Cursor",
        document=JsonDocument("mcpServers", comments=True),
        user=lambda around: around.home / ".cursor" / "mcp.json",
        traces=lambda around: [around.home / ".cursor"],
        project=".cursor/mcp.json",
        program="cursor",
        typed=True,
        after="Switch it on in Cursor's settings, under MCP.",
    ),
    Client(
        name="vscode",
        title="VS Code",
        document=JsonDocument("servers", comments=True),
        user=lambda around: _code(around) / "mcp.json",
        traces=lambda around: [_code(around)],
        project=".vscode/mcp.json",
        program="code",
        typed=True,
        after="Start it with the command `MCP: List Servers`.",
    ),
    Client(
        name="codex",
        title="Codex",
        document=TomlDocument("mcp_servers"),
        user=lambda around: _codex(around) / "config.toml",
        traces=lambda around: [_codex(around)],
        project=".codex/config.toml",
        program="codex",
        after="`codex mcp list` shows it.",
    ),
    Client(
        name="gemini",
        title="Gemini CLI",
        document=JsonDocument("mcpServers", comments=True),
        user=lambda around: around.home / ".gemini" / "settings.json",
        traces=lambda around: [around.home / ".gemini"],
        project=".gemini/settings.json",
        program="gemini",
        after="`gemini mcp list` shows it.",
    ),
)
"""All of them, in the order in which they are listed."""
