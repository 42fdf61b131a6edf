"""The file of results by itself: random additions, tears and rewrites against a model of it."""

import errno
import os
import random
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.maps.journal import Journal
from gemma_mcp.server.maps.records import Part, Record
from gemma_mcp.server.maps.rows import Row, unanswered


def record(path: str, key: str, lines: str = "") -> Record:
    return Record(path, Part(0, 1, lines), key)


def row_of(one: Record, text: str) -> Row:
    row = unanswered("job", one, InputRefusedError("x", text))
    return (
        row
        if text.startswith("not")
        else Row(job="job", key=one.key, path=one.path, lines=one.part.lines, status="ok", reason=text)
    )


def a_row(dice: random.Random) -> Row:
    return row_of(record(f"{dice.randrange(6)}.txt", f"k{dice.randrange(9)}"), f"{dice.choice(['ok', 'not'])} é")


@pytest.mark.parametrize("seed", range(25))
def test_whatever_is_added_torn_and_finished_the_last_whole_row_counts(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    path = tmp_path / "r.jsonl"
    model: list[Row] = []

    def opened() -> Journal:
        journal = Journal(path, "job", private=True, shown="r.jsonl")
        journal.read()
        return journal

    journal = opened()
    for _ in range(40):
        match dice.randrange(5):
            case 0 | 1:
                rows = [
                    row_of(
                        record(f"{dice.randrange(6)}.txt", f"k{dice.randrange(9)}"), f"{dice.choice(['ok', 'not'])} é"
                    )
                    for _ in range(dice.randrange(4))
                ]
                journal.add(rows)
                model += rows
            case 2:
                journal.close()
                journal = opened()
            case 3 if model:
                journal.close()
                data = path.read_bytes()
                path.write_bytes(data[: -dice.randrange(1, 20)])
                model.pop()
                journal = opened()
            case _:
                last = {row.path: row for row in model}
                order = [record(f"{number}.txt", "any") for number in dice.sample(range(6), dice.randrange(7))]
                journal.finish(order, [])
                named = [one.path for one in order if one.path in last]
                model = [last[name] for name in named] + [row for name, row in last.items() if name not in named]
                journal.close()
                journal = opened()
        check(journal, model)
    journal.close()
    if model:
        assert path.read_bytes() == b"".join(line_of(row) for row in model)


def line_of(row: Row) -> bytes:
    return msgspec.json.encode(row) + b"\n"


def check(journal: Journal, model: list[Row]) -> None:
    last = {row.path: row for row in model}
    for number in range(6):
        row = last.get(f"{number}.txt")
        for key in (f"k{n}" for n in range(9)):
            ours = row is not None and row.key == key and row.status == "ok"
            assert journal.has(record(f"{number}.txt", key)) is ours
    for key in (f"k{n}" for n in range(9)):
        known = [row for row in model if row.key == key and row.status == "ok"]
        assert journal.knows(key) is bool(known)
        assert journal.done(key) == (known[-1] if known else None)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a folder that cannot be written to")
def test_a_write_that_fails_half_way_leaves_whole_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "r.jsonl", "job", private=True, shown="r.jsonl")
    first, second = (row_of(record(f"{n}.txt", f"k{n}"), "ok") for n in (1, 2))
    journal.add([first])

    class HalfFull:
        """Takes a part of what is written, as a disk that fills up does."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def write(self, data: bytes) -> int:
            self._inner.write(data[:20])
            self._inner.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal, "_file", HalfFull(journal._file))  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(InputRefusedError, match="no space left on device"):
        journal.add([second])
    assert (tmp_path / "r.jsonl").read_bytes() == line_of(first)
    journal.add([second])
    assert (tmp_path / "r.jsonl").read_bytes() == line_of(first) + line_of(second)
    journal.close()
