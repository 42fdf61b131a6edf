"""An engine of our own for the benchmark: with given settings, in a folder of its own, surely ended."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx2
import psutil

from gemma_mcp.client.connect import Connector
from gemma_mcp.client.pool import EnginePool
from gemma_mcp.places import HOME_VARIABLE, Places
from gemma_mcp.settings import Settings
from gemma_mcp.state import EngineState

__all__ = ["Memory", "OwnEngine", "own_engine"]


@dataclass(frozen=True)
class Memory:
    """Resident bytes of the engine's process, and of its workers together."""

    engine_bytes: int
    worker_bytes: int


class OwnEngine:
    """A running engine that shares nothing with the user's. `url` and `headers` change when it is restarted."""

    def __init__(self, settings: Settings, folder: Path, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._places = Places.below(folder)
        kept = {name: value for name, value in environ.items() if not name.startswith("GEMMA_MCP_")}
        self._environ = {**kept, HOME_VARIABLE: str(folder)}
        self._state: EngineState | None = None

    @property
    def state(self) -> EngineState:
        """Of the engine that runs."""
        assert self._state is not None, "the engine was not started"
        return self._state

    @property
    def url(self) -> str:
        """Where it listens now."""
        return self.state.url

    @property
    def headers(self) -> dict[str, str]:
        """What lets a request in."""
        return {"authorization": f"Bearer {self.state.token}"}

    async def start(self) -> None:
        """Start it. Raises RemoteError when it does not start."""
        async with httpx2.AsyncClient(trust_env=False) as http:
            self._state = await Connector(self._settings, self._places, self._environ, http).connect()

    async def stop(self) -> None:
        """End it and its workers."""
        async with EnginePool(self._settings, self._places, self._environ) as pool:
            await pool.stop()

    async def restart(self) -> None:
        """End it, and start it with what it keeps on disk."""
        await self.stop()
        await self.start()

    def memory(self) -> Memory:
        """Now; 0 for what cannot be seen."""
        with suppress(psutil.Error):
            engine = psutil.Process(self.state.pid)
            return Memory(_resident(engine), sum(map(_resident, engine.children(recursive=True))))
        return Memory(0, 0)


def _resident(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return process.memory_info().rss
    return 0


@asynccontextmanager
async def own_engine(settings: Settings, folder: Path, environ: Mapping[str, str]) -> AsyncGenerator[OwnEngine]:
    """Started, and ended whatever happens inside."""
    engine = OwnEngine(settings, folder, environ)
    try:
        await engine.start()
        yield engine
    finally:
        with anyio.CancelScope(shield=True):
            await engine.stop()
