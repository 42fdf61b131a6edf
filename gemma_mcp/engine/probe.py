"""A backend's devices, asked in a child process, since drivers hang and abort.

`python -m gemma_mcp.engine.probe NAME` prints them as JSON.
"""

import json
import os
import subprocess
import sys
from functools import partial

import anyio.to_thread

from gemma_mcp.engine.registry import Registry
from gemma_mcp.errors import BackendError

__all__ = ["main", "probe_devices"]

TIMEOUT_SECONDS = 30.0
"""A cold GPU driver takes some seconds; one that takes this long will not answer."""


async def probe_devices(name: str, timeout: float = TIMEOUT_SECONDS) -> tuple[str, ...]:  # noqa: ASYNC109
    """The devices of a backend, best first. Raises BackendError when it does not answer within `timeout` seconds."""
    command = [sys.executable, "-P", "-m", "gemma_mcp.engine.probe", name]
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
    return tuple(json.loads(done.stdout))


def main(name: str) -> None:
    """Print the devices; whatever a driver prints goes to stderr."""
    answer = os.dup(1)
    os.dup2(2, 1)
    devices = Registry.installed().ready(name).devices()
    with os.fdopen(answer, "w", encoding="utf-8") as out:
        json.dump(devices, out)


if __name__ == "__main__":
    main(sys.argv[1])
