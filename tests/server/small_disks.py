"""Small disks that fill up for real: a file system in memory, in a mount namespace that only one process tree sees."""

import contextlib
import functools
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

MOUNT = 'mount -t tmpfs -o mode=700,size="$0" none "$1"; cd "$2"; shift 2; exec "$@"'


def on_small_disk(folder: Path, size: int, working: Path, *command: str) -> list[str]:
    """The command line that runs a command in the folder `working`, with `size` bytes of disk at `folder`."""
    place = (str(size), str(folder), str(working))
    return ["unshare", "--map-root-user", "--mount", "sh", "-ec", MOUNT, *place, *command]


def need_small_disks(folder: Path) -> None:
    """Skip the test where no such disk can be made."""
    if problem := _problem(folder):
        pytest.skip(f"no small disk can be made here: {problem}")


@functools.cache
def _problem(folder: Path) -> str:
    if shutil.which("unshare") is None:
        return "there is no unshare"
    done = subprocess.run(on_small_disk(folder, 65536, folder, "true"), capture_output=True, check=False)
    return done.stderr.decode("utf-8", "replace").strip() if done.returncode else ""


def seen_by(process: int, folder: Path) -> Path:
    """A folder as the process sees it."""
    return Path(f"/proc/{process}/root", *folder.parts[1:])


def fill(folder: Path, leave: int = 0) -> Path:
    """Fill the disk of the folder up to so many bytes; the file that does."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while (free := psutil.disk_usage(str(folder)).free) > leave:
            file.write(bytes(min(free - leave, 1_000_000)))
    return ballast
