"""An engine of its own for a test: in a folder of its own, and surely ended."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import anyio
import httpx2
import psutil

from gemma_mcp.client.connect import Connector
from gemma_mcp.client.pool import EnginePool
from gemma_mcp.places import HOME_VARIABLE, Places
from gemma_mcp.settings_sources import load_settings
from gemma_mcp.state import EngineState, read_state

__all__ = ["EngineHome"]

END_SECONDS = 20.0
"""How long processes may take to end on a busy machine."""


class EngineHome:
    """A home folder with settings; whatever engines and workers live in it are known by their environment."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        ours = {name: text for name, text in os.environ.items() if not name.startswith("GEMMA_MCP_")}
        self.folder = folder
        self.environ = {**ours, HOME_VARIABLE: str(folder), **(settings or {})}
        self.places = Places.find(self.environ)
        self.settings = load_settings(self.environ, places=self.places).settings

    def pool(self) -> EnginePool:
        """A pool that starts engines here."""
        return EnginePool(self.settings, self.places, self.environ)

    def start(self) -> EngineState:
        """Start the engine, or find it."""
        return anyio.run(self._start)

    async def _start(self) -> EngineState:
        async with httpx2.AsyncClient(trust_env=False) as http:
            return await Connector(self.settings, self.places, self.environ, http).connect()

    def state(self) -> EngineState:
        """Of the engine that is running."""
        state = read_state(self.places)
        assert state is not None, "no engine is running"
        return state

    def processes(self) -> list[psutil.Process]:
        """Engines and workers of this home that live."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error, OSError):
            return process.pid != os.getpid() and process.environ().get(HOME_VARIABLE) == str(self.folder)
        return False

    def end(self) -> list[psutil.Process]:
        """Ask the engine to end, and wait until it and its workers have. Returns those that had to be killed."""
        state = read_state(self.places)
        engines = [process for process in self.processes() if state is not None and process.pid == state.pid]
        for process in engines:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(self.processes(), timeout=END_SECONDS)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=END_SECONDS)
        return alive
