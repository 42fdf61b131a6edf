"""Files of results: where they may be, who else's they may be, and what a crash or a full disk leaves of them."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from map_calls import Mapper, names_in, numbered
from project_trees import write

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.maps.journal import Journal
from gemma_mcp.server.maps.rows import Row


@pytest.fixture(autouse=True)
def files(mapper: Mapper, project: Path) -> None:
    write(project, {**numbered(4), "out/x": "", ".git/hooks/x": ""})
    mapper.given["write"] = "new"


async def test_results_go_to_the_file_or_folder_that_is_named(mapper: Mapper, project: Path) -> None:
    assert "\nResults (JSON Lines): out/r.jsonl\n" in await mapper.digest(output="out/r.jsonl")
    assert mapper.by_path(project / "out/r.jsonl")["f03.txt"] == "SUBJECT 3"
    assert "\nResults (JSON Lines): out/map-" in await mapper.digest(output="out/")
    (named,) = (project / "out").glob("map-*.jsonl")
    assert len(mapper.rows(named)) == 4
    assert mapper.results() == []
    assert names_in(project) == [".git", *sorted(numbered(4)), "out"]


async def test_the_same_job_goes_on_with_its_file_whatever_files_it_is_for(mapper: Mapper, project: Path) -> None:
    await mapper.call("f02.txt", output="r.jsonl")
    mapper.engines.forget()
    assert "4 files: 4 done (1 by an earlier call)" in await mapper.digest(output="r.jsonl")
    assert len(mapper.engines.names) == 3
    assert "1 file: 1 done (1 by an earlier call)" in await mapper.digest("f01.txt", output="r.jsonl")
    assert [row["path"] for row in mapper.rows(project / "r.jsonl")] == ["f01.txt", "f02.txt", "f03.txt", "f04.txt"]


@pytest.mark.parametrize(
    "there", ["precious\n", "precious", '{"job":"another"}\n', '{"a": 1}\n', "\n", '{"job":"' + "x" * 12 + '"', "\0\0"]
)
async def test_what_is_not_this_jobs_is_left_alone(mapper: Mapper, project: Path, there: str) -> None:
    write(project, {"r.jsonl": there})
    assert "r.jsonl: it exists already and is not a file with results of this very job" in await mapper.error(
        output="r.jsonl"
    )
    assert (project / "r.jsonl").read_text(encoding="utf-8") == there
    assert not mapper.engines.requests
    await mapper.call(output="s.jsonl")
    before = (project / "s.jsonl").read_bytes()
    assert "not a file with results of this very job" in await mapper.error(output="s.jsonl", instruction="Other.")
    assert (project / "s.jsonl").read_bytes() == before


async def test_a_file_is_replaced_only_when_that_is_asked_and_allowed(mapper: Mapper, project: Path) -> None:
    write(project, {"r.jsonl": "precious\n"})
    assert "Unknown argument `overwrite`" in await mapper.error(output="r.jsonl", overwrite=True)
    mapper.given["write"] = "overwrite"
    assert "without `output`" in await mapper.error(overwrite=True)
    assert "exists already" in await mapper.error(output="r.jsonl")
    assert "gone.txt" in await mapper.error("gone.txt", output="r.jsonl", overwrite=True)
    assert (project / "r.jsonl").read_text(encoding="utf-8") == "precious\n"
    await mapper.call(output="r.jsonl", overwrite=True)
    assert len(mapper.rows(project / "r.jsonl")) == 4


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../r.jsonl", "its folder does not exist in the project folder"),
        ("..", "its folder does not exist in the project folder"),
        ("/tmp/r.jsonl", "its folder does not exist in the project folder"),
        ("gone/r.jsonl", "its folder does not exist in the project folder"),
        (".git/hooks/pre-commit", "hidden files and folders"),
        (".git/hooks", "hidden files and folders"),
        (".mcp.json", "hidden files and folders"),
        ("server.pem", "its name is one of a file with secrets"),
        ("link.jsonl", "something that is not a file is there"),
        (" ", "an empty path"),
        ("https://example.org/x", "it is a web address"),
    ],
)
async def test_places_that_are_not_written_to(mapper: Mapper, project: Path, path: str, reason: str) -> None:
    (project / "link.jsonl").symlink_to("f01.txt")
    for setting in ("new", "overwrite"):
        mapper.given["write"] = setting
        assert reason in await mapper.error(output=path)
    assert not mapper.engines.requests
    assert names_in(project.parent) == ["home", "project"]


async def test_a_torn_last_line_is_mended_and_only_its_record_computed_again(mapper: Mapper, project: Path) -> None:
    await mapper.call(output="r.jsonl")
    path = project / "r.jsonl"
    whole = path.read_bytes()
    cache = mapper.places.maps / "cache.sqlite3"
    last = len(whole) - len(whole.splitlines()[-1])
    for size in (0, 3, 20, last + 5, len(whole) - 1):
        path.write_bytes(whole[:size])
        cache.unlink(missing_ok=True)
        mapper.engines.forget()
        await mapper.call(output="r.jsonl")
        assert [(row["path"], row["result"]) for row in mapper.rows(path)] == [
            (row["path"], row["result"]) for row in map(json.loads, whole.splitlines())
        ]
        assert len(mapper.engines.names) == (4 if size < last else 1)


async def test_a_damaged_line_in_the_middle_is_computed_again(mapper: Mapper, project: Path) -> None:
    await mapper.call(output="r.jsonl")
    path = project / "r.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0" * 80 + b"\n" + b"".join(lines[2:]))
    (mapper.places.maps / "cache.sqlite3").unlink()
    mapper.engines.forget()
    assert "4 done (3 by an earlier call)" in await mapper.digest(output="r.jsonl")
    assert mapper.engines.names == ["f02.txt"]
    assert [row["path"] for row in mapper.rows(path)] == ["f01.txt", "f02.txt", "f03.txt", "f04.txt"]


@pytest.mark.parametrize("output", [{"output": "r.jsonl"}, {}])
async def test_a_full_disk_ends_the_call_and_keeps_whole_rows(
    mapper: Mapper, project: Path, monkeypatch: pytest.MonkeyPatch, output: dict[str, Any]
) -> None:
    add = Journal.add
    calls: list[int] = []

    def full(self: Journal, rows: list[Row]) -> None:
        calls.append(len(rows))
        if len(calls) > 2:
            raise InputRefusedError("r.jsonl", os.strerror(errno.ENOSPC).lower(), "Free some space.")
        add(self, rows)

    monkeypatch.setattr(Journal, "add", full)
    assert "no space left on device" in await mapper.error(**output)
    monkeypatch.undo()
    mapper.engines.forget()
    assert "4 files: 4 done (2 by an earlier call)" in await mapper.digest(**output)


async def test_a_file_that_cannot_be_rewritten_is_whole_all_the_same(
    mapper: Mapper, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mapper.call(output="r.jsonl")
    write(project, {"f02.txt": "changed"})

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, "open elsewhere")

    monkeypatch.setattr(Path, "replace", refuse)
    await mapper.call(output="r.jsonl")
    rows = mapper.rows(project / "r.jsonl")
    assert [row["path"] for row in rows] == ["f01.txt", "f02.txt", "f03.txt", "f04.txt", "f02.txt"]
    assert mapper.by_path(project / "r.jsonl")["f02.txt"] == "CHANGED"
    assert not [name for name in names_in(project) if name.endswith(".tmp")]
