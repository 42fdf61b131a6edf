"""Claude Code's own command, which edits its user file while Claude Code runs; we leave that file to it."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gemma_mcp.cli.installation.clients import Surroundings
from gemma_mcp.errors import ConfigError

__all__ = ["ClaudeCommand"]

SCRIPTS = (".cmd", ".bat", ".ps1")
"""Windows passes arguments of scripts through a shell, which takes JSON apart."""

ANSWER_SECONDS = 60.0


@dataclass(frozen=True)
class ClaudeCommand:
    """The command `claude`, at its path."""

    program: str
    around: Surroundings

    @classmethod
    def find(cls, around: Surroundings) -> "ClaudeCommand | None":
        """None where there is none that can be trusted with JSON."""
        program = around.program("claude")
        if program is None or program.lower().endswith(SCRIPTS):
            return None
        return cls(program, around)

    def add(self, name: str, entry: Mapping[str, Any]) -> None:
        """Add the entry for the user. Raises ConfigError with what the command says."""
        self._run("add-json", "--scope", "user", name, json.dumps(entry))

    def remove(self, name: str) -> None:
        """Take it out. Raises ConfigError with what the command says."""
        self._run("remove", "--scope", "user", name)

    def _run(self, *arguments: str) -> None:
        try:
            done = subprocess.run(
                [self.program, "mcp", *arguments],
                env=dict(self.around.environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=ANSWER_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(self.program, f"mcp {arguments[0]}", f"it did not run: {error}") from None
        if done.returncode != 0:
            words = " ".join((done.stderr.strip() or done.stdout.strip()).split()) or f"exit code {done.returncode}"
            raise ConfigError(self.program, f"mcp {arguments[0]}", words.rstrip("."))
