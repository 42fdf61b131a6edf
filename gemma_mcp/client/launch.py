"""Start an engine process that outlives the server which needed it first."""

import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import psutil

from gemma_mcp.places import HOME_VARIABLE, Places
from gemma_mcp.settings import Settings
from gemma_mcp.settings_sources import to_environment
from gemma_mcp.state import ENGINE_SECTIONS, EngineState, private_folder

__all__ = ["EngineProcess", "kill_engine", "launch", "output_path"]

MODULE = "gemma_mcp.engine.main"

CLOCK_SECONDS = 10.0
"""How far the time at which a process started may be off: the system counts it from a boot time in whole seconds."""

KILL_SECONDS = 10.0
"""How long a killed process may take to vanish."""


def output_path(places: Places) -> Path:
    """What an engine that was started on demand printed: normally nothing, otherwise why it did not start."""
    return places.logs / "engine.out"


class EngineProcess:
    """A started engine. It is waited for in a thread, so that it never stays behind as a zombie."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self._output = output
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
        """The last line that it printed."""
        try:
            text = self._output.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def kill_engine(state: EngineState) -> bool:
    """End an engine that does not answer, if the process of that number is still an engine. Its workers follow it."""
    try:
        process = psutil.Process(state.pid)
        if process.create_time() > state.started + CLOCK_SECONDS or MODULE not in process.cmdline():
            return False
        process.kill()
        process.wait(KILL_SECONDS)
    except (psutil.Error, OSError):
        return False
    return True


def launch(settings: Settings, places: Places, environ: Mapping[str, str]) -> EngineProcess:
    """Start an engine with these settings, whatever flags they came from. It keeps nothing of its parent.

    Its working folder is its own: `python -m` would import from the user's project otherwise, and on Windows nobody
    could delete that folder.
    """
    private_folder(places.logs)
    output = output_path(places)
    with output.open("wb") as sink:
        process = _spawn(
            [sys.executable, "-P", "-m", MODULE],
            sink.fileno(),
            private_folder(places.state),
            _environment(settings, places, environ),
        )
    return EngineProcess(process, output)


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
