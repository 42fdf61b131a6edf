"""What can be said of a path by its letters alone, before the file system is asked.

Windows reads more into a path than POSIX does: network shares, devices, streams, a drive's own working folder. None of
these is a file in a project, and some open a connection or a device as soon as they are looked at.
"""

import os
from pathlib import PureWindowsPath

from gemma_mcp.errors import InputRefusedError

__all__ = ["printable", "refuse_form", "shorten", "windows_fault"]

SHOWN_PATH = 200
"""Characters of a path that an error repeats; a caller may have sent megabytes."""

DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{kind}{digit}" for kind in ("com", "lpt") for digit in "0123456789¹²³"]
)
"""Names that mean a device in every folder, with any suffix (learn.microsoft.com, "Naming Files, Paths")."""


def shorten(path: str) -> str:
    """A path as errors show it."""
    return path if len(path) <= SHOWN_PATH else path[:SHOWN_PATH] + "…"


def printable(name: str) -> str:
    """A name from the disk as text; bytes that are no UTF-8 become question marks."""
    return name.encode("utf-8", "replace").decode("utf-8")


def refuse_form(path: str, *, windows: bool = os.name == "nt") -> None:
    """Raise InputRefusedError for a path that cannot name a file of a project, whatever lies on the disk."""
    if not path.strip():
        raise InputRefusedError("''", "an empty path", "Name a file in the project folder.")
    if "\0" in path:
        raise InputRefusedError(shorten(path).replace("\0", "?"), "it holds a NUL character", "Send it without.")
    if "://" in path and path.partition("://")[0].isalpha():
        raise InputRefusedError(
            shorten(path),
            "it is a web address, and nothing is fetched from the network",
            "Name a file on this machine.",
        )
    fault = windows_fault(path) if windows else ""
    if fault:
        raise InputRefusedError(shorten(path), fault, "Name a file by a plain path in the project folder.")


def windows_fault(path: str) -> str:
    """What makes a path unfit on Windows; empty when nothing does."""
    parsed = PureWindowsPath(path)
    if parsed.drive.startswith("\\\\") or path[:2] in ("\\\\", "//", "\\/", "/\\"):
        return "it names a network share or a device"
    if parsed.drive and not parsed.root:
        return "it is relative to the working folder of a drive"
    for part in parsed.parts[1:] if parsed.anchor else parsed.parts:
        if fault := _fault_of_part(part):
            return fault
    return ""


def _fault_of_part(part: str) -> str:
    if ":" in part:
        return "it names an alternate data stream"
    if part not in (".", "..") and part[-1] in ". ":
        return "a part of it ends with a dot or a space, which Windows drops"
    if part.partition(".")[0].rstrip(" ").lower() in DEVICES:
        return f"{part!r} is a device on Windows"
    return ""
