"""Start an engine process that outlives the server which needed it first."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import psutil

from gemma_mcp.errors import RemoteError
from gemma_mcp.places import HOME_VARIABLE, Places
from gemma_mcp.settings import Settings
from gemma_mcp.settings_sources import to_environment
from gemma_mcp.state import ENGINE_SECTIONS, EngineState, private_folder

__all__ = ["EngineProcess", "engine_lives", "kill_engine", "launch", "output_path"]

MODULE = "gemma_mcp.engine.main"

BY_HAND = ("engine", "run")
"""What the command line of an engine holds that the user started: `gemma-mcp engine run`."""

KILL_SECONDS = 10.0
"""How long a killed process may take to vanish."""

REAP_SECONDS = 1.0
"""How long the parent of a killed process may take to notice."""

POLL_SECONDS = 0.05


def output_path(places: Places) -> Path:
    """What an engine that was started on demand printed: normally nothing, otherwise why it did not start."""
    return places.logs / "engine.out"


class EngineProcess:
    """A started engine. It is waited for in a thread, so that it never stays behind as a zombie."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, complaint: str = "") -> None:
        self._output = output
        self._complaint = complaint
        self.pid = process.pid
        self._ended = threading.Event()
        threading.Thread(target=self._wait, args=(process,), name="engine-waiter", daemon=True).start()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._ended.set()

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._ended.is_set()

    def last_words(self) -> str:
        """The last line that it printed, or why it could print none."""
        if self._complaint:
            return self._complaint
        try:
            text = self._output.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def engine_lives(state: EngineState, places: Places) -> bool:
    """Whether the process of that number is an engine of these places, whether it answers or not."""
    return _engine_process(state, places) is not None


def kill_engine(state: EngineState, places: Places) -> bool:
    """End an engine that does not answer, if the process of that number is still it. Its workers follow it.

    Returns whether it is gone.
    """
    process = _engine_process(state, places)
    if process is None:
        return True
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OSError):
        return False
    deadline = time.monotonic() + KILL_SECONDS
    while engine_lives(state, places):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    with suppress(psutil.Error):  # one that its parent never asks about stays in the list of processes
        process.wait(REAP_SECONDS)
    return True


def _engine_process(state: EngineState, places: Places) -> psutil.Process | None:
    """Known by its command and its working folder: the time of its start changes with the clock."""
    try:
        process = psutil.Process(state.pid)
        ours = _is_engine(process.cmdline()) and Path(process.cwd()).samefile(places.state)
    except (psutil.Error, OSError):
        return None
    return process if ours else None


def _is_engine(command: Sequence[str]) -> bool:
    return MODULE in command or BY_HAND in pairwise(command)


def launch(settings: Settings, places: Places, environ: Mapping[str, str]) -> EngineProcess:
    """Start an engine with these settings, whatever flags they came from. It keeps nothing of its parent.

    Its working folder is its own: `python -m` would import from the user's project otherwise, and on Windows nobody
    could delete that folder. Raises ConfigError when a folder cannot be used, RemoteError when no process can be had.
    """
    folder = private_folder(places.state)
    private_folder(places.logs)
    sink, complaint = _open_output(output_path(places))
    with sink:
        command = [sys.executable, "-P", "-m", MODULE]
        try:
            process = _spawn(command, sink.fileno(), folder, _environment(settings, places, environ))
        except OSError as error:
            why = f"The engine's process could not be started ({(error.strerror or str(error)).lower()})."
            raise RemoteError(why, "Close other programs, then try again.") from error
    return EngineProcess(process, output_path(places), complaint)


def _open_output(path: Path) -> tuple[BinaryIO, str]:
    """The file for what an engine prints, or the null device and why: a full disk is no reason not to start."""
    try:
        with path.open("wb", buffering=0) as file:
            file.write(b"\n")
        return path.open("ab"), ""
    except OSError as error:
        return Path(os.devnull).open("wb"), f"{path} cannot be written ({(error.strerror or str(error)).lower()})"


def _environment(settings: Settings, places: Places, environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's, with the engine's sections of the settings spelt out."""
    prefixes = tuple(f"GEMMA_MCP_{section.upper()}_" for section in ENGINE_SECTIONS)
    given = {name: text for name, text in to_environment(settings).items() if name.startswith(prefixes)}
    home = places.config_file.parent
    if places == Places.below(home):
        given[HOME_VARIABLE] = str(home)
    return {**environ, **given}


def _spawn(command: list[str], output: int, folder: Path, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    if sys.platform != "win32":
        return _popen(command, output, folder, environ, new_session=True, flags=0)
    alone = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
    try:  # a client may hold its servers in a job that kills all of them at its end
        return _popen(
            command, output, folder, environ, new_session=False, flags=alone | subprocess.CREATE_BREAKAWAY_FROM_JOB
        )
    except PermissionError:  # the job lets nobody out: then the engine ends with its client
        return _popen(command, output, folder, environ, new_session=False, flags=alone)


def _popen(
    command: list[str], output: int, folder: Path, environ: dict[str, str], *, new_session: bool, flags: int
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd=folder,
        env=environ,
        start_new_session=new_session,
        creationflags=flags,
    )
