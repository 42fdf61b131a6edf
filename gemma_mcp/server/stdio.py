"""Serves over standard input and output, and keeps everything but the protocol away from them.

Importing this module is cheap and has no effect. `serve_stdio` takes the wire away first and imports the rest then:
what a library prints while it is imported, and what native code or a child process writes later, goes to stderr.
How clients end a server: Claude Code sends SIGINT, 100 ms later SIGTERM, 500 ms later SIGKILL; others close stdin;
some just die. All of them end this process at once, without waiting for whatever still runs in it.
"""

import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from io import BufferedReader, FileIO, TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import NoReturn

__all__ = ["Wire", "serve_stdio"]

PARENT_CHECK = 2.0
"""Seconds between two looks whether the client still lives."""

GRACE = 0.05
"""Seconds between a signal and the end, for what the loop can still send."""

CONFIG_EXIT = 2


@dataclass(frozen=True)
class Wire:
    """The descriptors of the client's pipes; not inheritable, so that no child process can hold them open."""

    input: int
    output: int

    @classmethod
    def claim(cls) -> "Wire":
        """Take the wire away from descriptors 0 and 1, which from now on are the null device and stderr."""
        sys.stdout.flush()
        wire = cls(os.dup(0), os.dup(1))
        os.dup2(2, 1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        return wire

    def hand_over(self) -> None:
        """Give the output to the SDK, which diverts descriptor 1 again the moment it serves."""
        sys.stdout.flush()  # drains into stderr, not onto the wire
        os.dup2(self.output, 1)


def serve_stdio(environ: Mapping[str, str]) -> NoReturn:
    """Serve one client until it goes. Never returns; exit status 2 when a setting must be edited."""
    wire = Wire.claim()
    _end_with_client()
    code = 1
    try:
        code = _serve(wire, environ)
    except Exception:
        traceback.print_exc()
    finally:
        # Nothing is joined, and nothing that is still buffered for stdout can reach the wire.
        sys.stderr.flush()
        os._exit(code)


def _serve(wire: Wire, environ: Mapping[str, str]) -> int:
    # Imported here, after the wire is safe. Collecting garbage while modules load finds none and costs a tenth.
    gc.disable()
    import anyio

    from gemma_mcp.errors import ConfigError

    try:
        run = _prepared(wire, environ)
    except ConfigError as error:
        print(f"gemma-mcp: {error}", file=sys.stderr)
        return CONFIG_EXIT
    gc.enable()
    anyio.run(run)
    return 0


def _prepared(wire: Wire, environ: Mapping[str, str]) -> Callable[[], Awaitable[None]]:
    """Everything imported and read; the engine is started by the first call of a tool."""
    from gemma_mcp.client.pool import EnginePool
    from gemma_mcp.places import Places
    from gemma_mcp.server.app import build_server
    from gemma_mcp.server.lines import RequestLines
    from gemma_mcp.server.paths import project_root
    from gemma_mcp.settings_sources import load_settings

    settings = load_settings(environ).settings
    root = project_root(settings.server.root, environ, Path.cwd())
    places = Places.find(environ)

    async def run() -> None:
        async with EnginePool(settings, places) as pool:
            server = build_server(pool, settings, root, places)
            lines = RequestLines(BufferedReader(FileIO(wire.input, "rb", closefd=False)))
            sys.stdin = TextIOWrapper(BufferedReader(lines), encoding="utf-8")
            wire.hand_over()
            await server.run_stdio_async()

    return run


def _end_with_client() -> None:
    """End this process on the signals of a client, and when the client is gone without any."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        if number := getattr(signal, name, None):
            signal.signal(number, _on_signal)
    threading.Thread(target=_watch_parent, args=(_parent_watch(),), daemon=True).start()


def _on_signal(_number: int, _frame: FrameType | None) -> None:
    threading.Thread(target=_exit_soon, daemon=True).start()


def _exit_soon() -> None:
    time.sleep(GRACE)
    os._exit(0)


def _watch_parent(lives: Callable[[], bool]) -> None:
    while lives():
        time.sleep(PARENT_CHECK)
    _exit_soon()


def _parent_watch() -> Callable[[], bool]:
    parent = os.getppid()
    if os.name != "nt":
        return lambda: os.getppid() == parent  # an orphan gets another parent
    import psutil  # Windows keeps the number of a dead parent

    try:
        process = psutil.Process(parent)
    except psutil.Error:
        return lambda: False
    return process.is_running
