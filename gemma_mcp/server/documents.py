"""Markdown for the resources: tables that read well as text, too."""

from collections.abc import Sequence

__all__ = ["cell", "count", "table"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, its columns aligned. Cells may hold anything."""
    cells = [[cell(text) for text in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    lines = [
        "| " + " | ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def cell(text: str) -> str:
    """On one line, and no end of the cell."""
    return " ".join(text.split()).replace("|", "\\|")


def count(number: int, noun: str) -> str:
    """ "1 call", "2,000 calls"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
