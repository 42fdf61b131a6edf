"""The entry: which command starts the server, and with which environment."""

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from gemma_mcp.errors import ConfigError, UnsupportedError

__all__ = ["Entry", "check_start", "interpreter", "is_passing"]

ARGUMENTS = ("-m", "gemma_mcp")

PASSING = re.compile(r"/uv/(?:cache/)?(?:archive|builds|environments)-v\d+/|/pipx/\.cache/")
"""Folders of `uv` and `pipx` whose environments live for one command (`uvx`, `uv run --with`, `pipx run`)."""

START_SECONDS = 60.0
"""How long the interpreter may take to name its version; a cold disk with a virus scanner takes ten."""


@dataclass(frozen=True)
class Entry:
    """What a client needs to know: `variables` are added to the server's environment."""

    command: str
    variables: Mapping[str, str]
    arguments: tuple[str, ...] = ARGUMENTS


def interpreter(executable: str, platform: str) -> str:
    """This environment's Python as an absolute path. Links are kept: in a virtual environment, the link is the point.

    Raises UnsupportedError where Python does not know its own path (some embeddings).
    """
    if not executable:
        raise UnsupportedError("Python does not know the path of its interpreter.", "Add the entry by hand.")
    flavour: type[PurePath] = PureWindowsPath if platform == "win32" else PurePosixPath
    path = flavour(executable)
    if not path.is_absolute():
        path = flavour(os.path.abspath(executable))  # noqa: PTH100 - Path.resolve() would follow the link
    if path.name.lower() == "pythonw.exe":  # it has no stdin and stdout
        path = path.with_name("python.exe")
    return str(path)


def is_passing(command: str, platform: str) -> bool:
    """Whether the interpreter is of an environment that may soon be gone."""
    text = PureWindowsPath(command).as_posix() if platform == "win32" else command
    return bool(PASSING.search(text)) or Path(command).is_relative_to(tempfile.gettempdir())


def check_start(entry: Entry) -> None:
    """Have the command name its version, from another folder, as a client would. Raises ConfigError when it cannot."""
    command = [entry.command, *entry.arguments, "--version"]
    try:
        with tempfile.TemporaryDirectory() as elsewhere:
            done = subprocess.run(
                command,
                cwd=elsewhere,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=START_SECONDS,
                check=False,
            )
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1] if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    if why:
        hint = "Install gemma-mcp into this environment; nothing was changed."
        raise ConfigError("interpreter", " ".join(command), f"this does not start: {why}", hint)
