"""Runs git so that it only reads: no program of the repository's choosing, no network, bounded in time and bytes.

A repository's own configuration may name programs (pagers, hooks, filters, file watchers, viewers of differences);
all of them are switched off here, since a project folder may come from anywhere.
"""

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gemma_mcp.errors import InputRefusedError, UnsupportedError

__all__ = ["GIT_SECONDS", "Git"]

GIT_SECONDS = 20.0
"""After which git is ended; a diff takes milliseconds, also in large repositories."""

MOST_FILTERS = 100
"""Programs that files pass through; each is four options, and people have two or three."""

LARGEST_ERROR = 4000
"""Bytes of git's complaint that are read."""

QUIET = (
    "--no-pager", "--no-replace-objects", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}",
    "-c", "core.quotePath=false", "-c", "core.untrackedCache=false", "-c", "diff.external=", "-c", "color.ui=false",
    "-c", "protocol.allow=never", "-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "log.showSignature=false",
    "-c", "submodule.recurse=false", "-c", "diff.ignoreSubmodules=dirty",
)  # fmt: skip

ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
}


@dataclass(frozen=True)
class Git:
    """git in one folder. `most_bytes` of output; every failure is an InputRefusedError about `spec`."""

    program: str
    folder: Path
    spec: str
    most_bytes: int
    filters: tuple[str, ...] = ()

    @classmethod
    def find(cls, folder: Path, spec: str, most_bytes: int) -> "Git":
        """The git on PATH, never one that lies in the folder itself. Raises UnsupportedError when there is none."""
        found = shutil.which("git")
        if found is None or not Path(found).is_absolute() or Path(found).is_relative_to(folder):
            raise UnsupportedError(
                f"{spec} needs git, which is not on the PATH.", "Install git, or name files instead."
            )
        git = cls(found, folder, spec, most_bytes)
        return cls(found, folder, spec, most_bytes, git._filters())

    def text(self, *arguments: str) -> str:
        """One line or name that git prints."""
        return self.run(*arguments).decode("utf-8", "surrogateescape").removesuffix("\n")

    def names(self, *arguments: str) -> list[str]:
        """What git prints with `-z`."""
        return [name for name in self.run(*arguments).decode("utf-8", "surrogateescape").split("\0") if name]

    def run(self, *arguments: str, empty: int = 0) -> bytes:
        """All that git prints. `empty` is the exit status that says that there is nothing. Blocks."""
        with tempfile.TemporaryFile() as errors:
            output, status, late = self._output(arguments, errors.fileno())
            errors.seek(0)
            complaint = errors.read(LARGEST_ERROR).decode("utf-8", "replace")
        if late:
            raise InputRefusedError(self.spec, f"git was not done within {GIT_SECONDS:g} s", "Ask for less.")
        if len(output) > self.most_bytes:
            why = f"git's answer has more than the {self.most_bytes:,} bytes that are allowed"
            raise InputRefusedError(self.spec, why, "Ask for less, such as 'git:diff -- src'.")
        if status not in (0, empty):
            raise InputRefusedError(self.spec, _reason(complaint))
        return output

    def _output(self, arguments: Sequence[str], errors: int) -> tuple[bytes, int, bool]:
        """What git prints, up to one byte too many, its exit status, and whether time was up."""
        late = threading.Event()
        with subprocess.Popen(
            [self.program, *QUIET, *self.filters, *arguments],
            cwd=self.folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        ) as process:
            timer = threading.Timer(GIT_SECONDS, lambda: (late.set(), process.kill()))
            timer.start()
            try:
                assert process.stdout is not None
                output = process.stdout.read(self.most_bytes + 1)
                if len(output) > self.most_bytes:
                    process.kill()
                return output, process.wait(), late.is_set()
            finally:
                timer.cancel()
                process.kill()

    def _filters(self) -> tuple[str, ...]:
        """Options that switch off the programs which the configuration lets files pass through."""
        found = self.run("config", "--null", "--name-only", "--get-regexp", r"^filter\..*", empty=1)
        keys = [key for key in found.decode("utf-8", "surrogateescape").split("\0") if key]
        drivers = dict.fromkeys(key.split(".", 1)[1].rpartition(".")[0] for key in keys)
        if len(drivers) > MOST_FILTERS or any("=" in driver for driver in drivers):  # which would end a key of -c
            why = "its git configuration has filters that cannot be switched off"
            raise InputRefusedError(self.spec, why, "Name the files instead.")
        return tuple(
            option
            for driver in drivers
            for end in ("clean=", "smudge=", "process=", "required=false")
            for option in ("-c", f"filter.{driver}.{end}")
        )


def _environment() -> dict[str, str]:
    """The process's own without what redirects git."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("GIT_")}
    return kept | ENVIRONMENT


def _reason(complaint: str) -> str:
    first = next((line for line in complaint.splitlines() if line.strip()), "it failed without a word")
    return "git says: " + first.removeprefix("fatal: ").strip().rstrip(".")[:200]
