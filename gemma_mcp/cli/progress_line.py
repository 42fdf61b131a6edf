"""A bar on stderr that is written over while something long goes on; where programs read, nothing is said."""

import os
import sys
import time
from types import TracebackType

import click

from gemma_mcp.cli.console import columns

__all__ = ["ProgressLine"]

BAR_CHARACTERS = 20
REDRAW_SECONDS = 0.1


class ProgressLine:
    """A context manager; leaving it wipes the line."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._started = time.monotonic()
        self._drawn = 0.0

    def __enter__(self) -> "ProgressLine":
        return self

    def show(self, share: float, text: str) -> None:
        """How far it is, 0 to 1, and what is being done."""
        now = time.monotonic()
        if not self._live or now - self._drawn < REDRAW_SECONDS:
            return
        self._drawn = now
        full = round(share * BAR_CHARACTERS)
        line = f"[{'#' * full}{'.' * (BAR_CHARACTERS - full)}] {share:4.0%} {self._left(share, now)}{text}"
        width = columns()
        click.echo(f"\r{line[:width]:{width}}", nl=False, err=True)

    def _left(self, share: float, now: float) -> str:
        if share < 0.02:
            return ""
        seconds = (now - self._started) * (1 - share) / share
        return f"{seconds / 60:.0f} min left " if seconds >= 90 else f"{seconds:.0f} s left "

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            click.echo(f"\r{'':{columns()}}\r", nl=False, err=True)
