"""A backend's devices, and their memory, asked in a child process, since drivers hang and abort.

`python -m gemma_mcp.engine.probe NAME` prints the devices as JSON, with `memory` behind it the memory of the GPUs.
"""

import json
import os
import subprocess
import sys
from functools import partial
from typing import Any, Protocol, runtime_checkable

import anyio.to_thread
import msgspec

from gemma_mcp.engine.registry import Registry
from gemma_mcp.errors import BackendError
from gemma_mcp.types import DeviceMemory

__all__ = ["GpuBackend", "main", "probe_devices", "probe_memory"]

TIMEOUT_SECONDS = 30.0
"""A cold GPU driver takes some seconds; one that takes this long will not answer."""


@runtime_checkable
class GpuBackend(Protocol):
    """A `Backend` that knows the memory of its GPUs."""

    def may_have_gpu(self) -> bool:
        """Whether it is built for GPUs at all. Imports nothing native."""
        ...

    def gpu_memory(self) -> tuple[DeviceMemory, ...]:
        """The memory of each GPU, best first. Called in a child process: drivers hang."""
        ...


async def probe_devices(name: str, timeout: float = TIMEOUT_SECONDS) -> tuple[str, ...]:  # noqa: ASYNC109
    """The devices of a backend, best first. Raises BackendError when it does not answer within `timeout` seconds."""
    return tuple(await _ask([name], timeout))


async def probe_memory(name: str, timeout: float = TIMEOUT_SECONDS) -> tuple[DeviceMemory, ...]:  # noqa: ASYNC109
    """The memory of a backend's GPUs, best first; see `GpuBackend`. Raises what `probe_devices` raises."""
    return msgspec.convert(await _ask([name, "memory"], timeout), tuple[DeviceMemory, ...])


async def _ask(words: list[str], timeout: float) -> Any:  # noqa: ASYNC109
    name = words[0]
    command = [sys.executable, "-P", "-m", "gemma_mcp.engine.probe", *words]
    ask = partial(subprocess.run, command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
    try:
        done = await anyio.to_thread.run_sync(ask, abandon_on_cancel=True)
    except subprocess.TimeoutExpired:
        raise BackendError(
            f"The backend {name!r} did not list its devices within {timeout:g} seconds.", "Look at the device's driver."
        ) from None
    if done.returncode != 0:
        last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"])[-1]
        raise BackendError(f"The backend {name!r} could not list its devices: {last}", "Look at the device's driver.")
    return json.loads(done.stdout)


def main(name: str, what: str = "devices") -> None:
    """Print the devices, or their memory; whatever a driver prints goes to stderr."""
    answer = os.dup(1)
    os.dup2(2, 1)
    backend = Registry.installed().ready(name)
    if what == "devices":
        found: object = backend.devices()
    else:
        found = msgspec.to_builtins(backend.gpu_memory() if isinstance(backend, GpuBackend) else ())
    with os.fdopen(answer, "w", encoding="utf-8") as out:
        json.dump(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:3])
