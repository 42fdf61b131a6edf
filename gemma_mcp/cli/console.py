"""What the commands have in common when they print: UTF-8 on any console, marks, sizes, lines that fit, errors."""

import io
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterator, Sequence

import click

from gemma_mcp.errors import GemmaError

__all__ = ["aligned", "columns", "first_of_ours", "fitted", "make_output_safe", "size", "tell"]


def make_output_safe() -> None:
    """Print UTF-8 whatever the console's code page is, and escape what it cannot hold rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def tell(text: str) -> None:
    """One line on stderr, marked as ours: it may stand between the lines of other programs."""
    click.echo(fitted(text, "  ", "gemma-mcp: ", err=True), err=True)


def columns() -> int:
    """Of the terminal, less one: some begin a new line after a full one."""
    return shutil.get_terminal_size().columns - 1


def fitted(text: str, indent: str = "", head: str | None = None, *, err: bool = False) -> str:
    """A line, on a terminal broken between words and indented; where programs read, as it is.

    `head` begins it, in place of `indent`; `err`: it is for stderr. A word that is longer than a line, which a path may
    be, stays whole.
    """
    first = indent if head is None else head
    if not (sys.stderr if err else sys.stdout).isatty():
        return first + text
    return textwrap.fill(
        text,
        columns(),
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def first_of_ours(error: GemmaError | BaseExceptionGroup[BaseException]) -> GemmaError:
    """The error, taken out of the groups that task groups wrap around it; a group without one of ours is raised."""
    if isinstance(error, GemmaError):
        return error
    ours = error.subgroup(GemmaError)
    if ours is None:
        raise error
    return first_of_ours(ours.exceptions[0])


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> Iterator[str]:
    """Lines of columns two spaces apart; those whose numbers are in `right` stand to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            text.rjust(width) if number in right else text.ljust(width)
            for number, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def size(count: float) -> str:
    """Bytes for a person to read: binary units, at most one decimal."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
