"""The figures that matter most as bars, in an SVG file that any browser shows."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from gemma_mcp.bench.results import Results, Series, shown
from gemma_mcp.errors import InputRefusedError

__all__ = ["chart", "write_chart"]

WIDTH = 900
LEFT = 190
BAR = 16
GAP = 14
HEAD = 64
FOOT = 20
VALUES = 150
COLOURS = ("#2f6fb0", "#b9c4cf", "#d98324", "#5d9c59", "#8e5ea2", "#777777")
HEADLINES = (
    "seconds",
    "decode_rate",
    "prefill_rate",
    "ttft",
    "ttft_new",
    "ttft_same",
    "ttft_restarted",
    "tpot_p99",
    "ttft_beside",
)


def write_chart(path: Path, results: Results) -> None:
    """Write the file. Raises InputRefusedError."""
    try:
        path.write_text(chart(results), encoding="utf-8")
    except OSError as error:
        why = f"it cannot be written ({(error.strerror or str(error)).lower()})"
        raise InputRefusedError(str(path), why) from error


def chart(results: Results) -> str:
    """The text of the SVG: groups of bars, one for each figure, a bar for each engine, a line for its spread."""
    groups = [(name, group) for name in results.scenarios() for group in results.of(name) if _matters(group)]
    parts, top = list[str](), HEAD
    for name, group in groups:
        parts += _group(name, group, top, [target.name for target in results.targets])
        top += BAR * (len(group) + 1) + GAP
    return "\n".join([*_start(results, top + FOOT), *parts, "</svg>", ""])


def _matters(group: Sequence[Series]) -> bool:
    return group[0].metric in HEADLINES


def _start(results: Results, height: int) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">'
    )
    yield f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    machine = f"{results.machine.processor or results.machine.system}, {results.machine.usable_cores} cores"
    yield _text(16, 24, f"{results.model.name}: medians of {results.rounds} rounds", size=16)
    yield _text(16, 42, f"{machine}; gemma-mcp {results.version}; lines reach from the least to the greatest value")


def _group(scenario: str, group: Sequence[Series], top: int, targets: Sequence[str]) -> Iterator[str]:
    most = max(max(one.values) for one in group) or 1.0
    room = WIDTH - LEFT - VALUES
    hint = "less is better" if group[0].better == "lower" else "more is better"
    yield _text(16, top + 12, f"{scenario}: {group[0].label} ({hint})", weight="bold")
    for index, one in enumerate(group, 1):
        y = top + BAR * index + 2
        colour = COLOURS[targets.index(one.target) % len(COLOURS)]
        yield _text(LEFT - 8, y + 11, one.target, anchor="end")
        yield f'<rect x="{LEFT}" y="{y}" width="{one.median / most * room:.1f}" height="{BAR - 3}" fill="{colour}"/>'
        start, end = (LEFT + value / most * room for value in (min(one.values), max(one.values)))
        middle = y + (BAR - 3) / 2
        yield f'<path d="M{start:.1f} {middle}H{end:.1f}" stroke="black" stroke-width="1.5"/>'
        yield _text(round(max(end, LEFT)) + 8, y + 11, shown(one))


def _text(x: int, y: int, text: str, *, size: int = 12, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'
    )
