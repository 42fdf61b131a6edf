"""A backend's devices, asked in a child process, since drivers hang and abort.

`python -m gemma_mcp.engine.probe NAME` prints them as JSON.
"""

import json
import os
import subprocess
import sys

import anyio

from gemma_mcp.engine.registry import Registry
from gemma_mcp.errors import BackendError

__all__ = ["main", "probe_devices"]

TIMEOUT_SECONDS = 30.0
"""A cold GPU driver takes some seconds; one that takes this long will not answer."""


async def probe_devices(name: str, timeout: float = TIMEOUT_SECONDS) -> tuple[str, ...]:  # noqa: ASYNC109
    """The devices of a backend, best first. Raises BackendError when it does not answer within `timeout` seconds."""
    command = [sys.executable, "-P", "-m", "gemma_mcp.engine.probe", name]
    try:
        with anyio.fail_after(timeout):
            done = await anyio.run_process(command, stdin=subprocess.DEVNULL, check=False)
    except TimeoutError:
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
