"""What `map_files` keeps, and what it computes once only: after cancels, crashes, changes, and beside other calls."""

import os
import shutil
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import anyio
import pytest
from map_calls import INSTRUCTION, Mapper, numbered
from mcp import Client
from project_trees import write
from scripted_engine import Step, finished, home_of, said, settings, texts
from task_client import WithTasks, start, wait_for

from gemma_mcp.errors import ContextOverflowError, DeadlineError
from gemma_mcp.server import replies
from gemma_mcp.server.app import build_server
from gemma_mcp.server.maps import survey

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Windows has access lists instead")


async def test_a_call_that_was_cancelled_goes_on_where_it_was(mapper: Mapper, project: Path) -> None:
    write(project, numbered(10))
    mapper.map_given = {"at_once": 2}
    stuck = anyio.Event()

    def answer(name: str, text: str) -> list[Step] | str:
        if name != "f05.txt":
            return text.swapcase() if name < "f05.txt" else [anyio.Event()]
        stuck.set()
        return [said("half of"), anyio.Event()]

    mapper.engines.answer = answer
    await mapper.cancelled(stuck)
    kept = [row["path"] for row in mapper.rows()]
    assert set(kept) <= {"f01.txt", "f02.txt", "f03.txt", "f04.txt"}
    assert len(kept) >= 3
    assert mapper.engines.busy == 0
    mapper.engines.forget()
    mapper.engines.answer = lambda name, text: text.swapcase()
    digest = await mapper.digest()
    assert digest.startswith(f"10 files: 10 done ({len(kept)} by an earlier call)\n")
    assert sorted(mapper.engines.names) == [name for name in sorted(numbered(10)) if name not in kept]
    assert [row["path"] for row in mapper.rows()] == sorted(numbered(10))
    mapper.engines.forget()
    digest, line = texts(await mapper.call())
    assert digest.startswith("10 files: 10 done (10 by an earlier call)\n")
    assert line.startswith("[starter · stop · ")
    assert "This is the built-in starter model, a toy" in line
    assert mapper.engines.names == []


async def test_time_that_is_up_leaves_a_digest_that_says_how_many_are_left(
    mapper: Mapper, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "GRACE", 0.0)
    write(project, numbered(10))

    def answer(name: str, text: str) -> list[Step] | str:
        return "fine" if name < "f04.txt" else [said("half of"), anyio.Event()]

    mapper.engines.answer = answer
    digest, line = texts(await mapper.call(max_seconds=0.5))
    assert digest.startswith("10 files: 3 done, 7 left\n")
    assert digest.endswith("Time was up. The same call again goes on with the 7 that are left.")
    assert "deadline (cut off by max_seconds)" in line
    assert len(mapper.engines.names) == 9
    digest = await mapper.digest(max_seconds=0.5)
    assert digest.startswith("10 files: 3 done (3 by an earlier call), 7 left\n")
    assert digest.endswith("None was finished in the time of this call: pass a higher max_seconds.")
    assert set(mapper.by_path()) == {"f01.txt", "f02.txt", "f03.txt"}
    mapper.engines.answer = lambda name, text: "fine"
    assert (await mapper.digest()).startswith("10 files: 10 done (3 by an earlier call)\n")


async def test_a_model_that_is_not_loaded_in_time_is_an_error_that_says_so(mapper: Mapper, project: Path) -> None:
    write(project, numbered(3))
    late = DeadlineError("The model was not loaded yet.", "It keeps loading: call again in a moment.")
    mapper.engines.answer = lambda name, text: late
    assert await mapper.error() == "The model was not loaded yet. It keeps loading: call again in a moment."


async def test_a_changed_file_is_computed_again_and_its_old_row_goes(mapper: Mapper, project: Path) -> None:
    write(project, numbered(5))
    await mapper.call()
    mapper.engines.forget()
    write(project, {"f03.txt": "another subject\n", "f06.txt": "one more\n"})
    (project / "f01.txt").unlink()
    assert "5 files: 5 done (3 by an earlier call)" in await mapper.digest()
    assert sorted(mapper.engines.names) == ["f03.txt", "f06.txt"]
    assert mapper.by_path()["f03.txt"] == "ANOTHER SUBJECT"
    assert [row["path"] for row in mapper.rows()] == ["f02.txt", "f03.txt", "f04.txt", "f05.txt", "f06.txt", "f01.txt"]


async def test_a_file_that_changes_while_the_call_is_at_work_is_taken_as_it_is_then(
    mapper: Mapper, project: Path
) -> None:
    write(project, {"a.txt": "a\nb\n", "b.txt": "c\nd\n", "c.txt": "e\n"})
    mapper.map_given = {"at_once": 1}

    def answer(name: str, text: str) -> str:
        write(project, {"b.txt": "new\nold\nd\n"})
        (project / "c.txt").unlink(missing_ok=True)
        return text.swapcase()

    mapper.engines.answer = answer
    digest = await mapper.digest(per="line")
    assert digest.startswith("6 lines: 5 done, 1 refused\n")
    assert mapper.by_path() == {
        "a.txt:1": "A",
        "a.txt:2": "B",
        "b.txt:1": "NEW",
        "b.txt:2": "OLD",
        "b.txt:3": "D",
        "c.txt:1": "refused",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"instruction": "Another."},
        {"max_tokens": 5},
        {"json_schema": {"type": "string"}},
        {"temperature": 0.5, "seed": 1},
        {"model": "echo"},
    ],
)
async def test_another_question_is_another_job(mapper: Mapper, project: Path, change: dict[str, Any]) -> None:
    write(project, numbered(2))
    mapper.engines.answer = lambda name, text: '"fine"'
    await mapper.call()
    mapper.engines.forget()
    assert "2 files: 2 done\n" in await mapper.digest(**change)
    assert len(mapper.engines.names) == 2
    assert len(mapper.results()) == 2


async def test_another_model_under_the_same_name_is_asked_again(mapper: Mapper, project: Path, tmp_path: Path) -> None:
    model = tmp_path / "small.gguf"
    shutil.copy(Path(str(resources.files("gemma_mcp") / "starter" / "starter.gguf")), model)
    write(project, numbered(2))
    await mapper.call(model=str(model))
    mapper.engines.forget()
    os.utime(model, (1, 1))
    assert "2 files: 2 done\n" in await mapper.digest(model=str(model))
    assert len(mapper.engines.names) == 2


async def test_results_are_shared_between_calls_through_the_cache(mapper: Mapper, project: Path) -> None:
    write(project, numbered(4))
    await mapper.call("f01.txt", "f02.txt")
    mapper.engines.forget()
    assert "4 files: 4 done (2 from the cache)" in await mapper.digest()
    assert sorted(mapper.engines.names) == ["f03.txt", "f04.txt"]
    first, second = mapper.results()
    assert {path.name.split("-")[1] for path in (first, second)} == {first.name.split("-")[1]}
    assert [row.get("cached", False) for row in max(map(mapper.rows, (first, second)), key=len)] == [
        True,
        True,
        False,
        False,
    ]


async def test_sampling_without_a_seed_takes_nothing_from_others_but_goes_on_with_its_own(
    mapper: Mapper, project: Path
) -> None:
    write(project, {"a.txt": "x\nx\ny\n"})
    for specs, asked in ((["a.txt"], 3), (["*.txt"], 3), (["a.txt"], 0)):
        mapper.engines.forget()
        await mapper.call(*specs, per="line", temperature=1)
        assert len(mapper.engines.names) == asked
    await mapper.call(per="line", temperature=1, seed=7)
    mapper.engines.forget()
    await mapper.call("a.txt", per="line", temperature=1, seed=7)
    assert mapper.engines.names == []


async def test_a_damaged_cache_costs_its_contents_and_no_call(mapper: Mapper, project: Path) -> None:
    write(project, numbered(2))
    await mapper.call("f01.txt")
    cache = mapper.places.maps / "cache.sqlite3"
    cache.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    digest, line = texts(await mapper.call("f01.txt", "f02.txt"))
    assert digest.startswith("2 files: 2 done\n")
    assert "The cache of results cache.sqlite3 was not used" in line
    mapper.engines.forget()
    assert "(1 from the cache)" in await mapper.digest("f02.txt")


async def test_answers_that_depend_on_the_context_stay_out_of_the_cache(mapper: Mapper, project: Path) -> None:
    write(project, {"a.txt": "".join(f"line {number}\n" for number in range(1500))})

    def answer(name: str, text: str) -> Step | str:
        return ContextOverflowError(len(text), 1024, 8192) if len(text) > 7000 else "part"

    mapper.engines.answer = answer
    await mapper.call("a.txt")
    mapper.engines.forget()
    assert "1 done\n" in await mapper.digest("*.txt")
    assert mapper.engines.names
    mapper.engines.forget()
    assert "1 by an earlier call" in await mapper.digest("*.txt")
    assert not mapper.engines.names


async def test_two_calls_for_one_file_of_results_take_turns_and_nothing_is_computed_twice(
    mapper: Mapper, project: Path
) -> None:
    write(project, numbered(6))
    mapper.given["write"] = "new"
    entered = anyio.Event()

    def answer(name: str, text: str) -> list[Step]:
        entered.set()
        return [again, said("fine"), finished()]

    again = anyio.Event()
    mapper.engines.answer = answer
    digests: list[str] = []
    waiting: list[str] = []

    async def told(progress: float, total: float | None, message: str | None) -> None:
        waiting.append(message or "")
        if len(waiting) == 1:
            again.set()

    async def call(told: Any = None) -> None:
        digests.append(texts(await mapper.call(told=told, output="out.jsonl"))[0])

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await entered.wait()
            tasks.start_soon(call, told)
    assert waiting[0] == "looking for earlier results in out.jsonl"
    assert digests[0].startswith("6 files: 6 done\n")
    assert digests[1].startswith("6 files: 6 done (6 by an earlier call)\n")
    assert len(mapper.engines.names) == 6


async def test_who_waits_too_long_for_another_call_is_told(mapper: Mapper, project: Path) -> None:
    write(project, numbered(1))
    entered, more = anyio.Event(), anyio.Event()

    def answer(name: str, text: str) -> list[Step]:
        entered.set()
        return [more, said("fine"), finished()]

    mapper.engines.answer = answer
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(mapper.call)
        await entered.wait()
        assert "Another call was still writing to map-" in await mapper.error(max_seconds=0.2)
        more.set()


async def test_it_goes_on_as_a_task_when_it_lasts(mapper: Mapper, project: Path) -> None:
    write(project, numbered(3))
    more = anyio.Event()
    mapper.engines.answer = lambda name, text: [more, said("fine"), finished()]
    server = build_server(
        mapper.engines, settings(task_after_seconds=0.0, progress_interval=0.1), project, home_of(project)
    )
    async with Client(server, mode="2026-07-28", extensions=[WithTasks()]) as client:
        handle = await start(client, "map_files", instruction=INSTRUCTION, files=["*.txt"])
        assert handle.status == "working"
        await wait_for(client, handle.task_id, "0 of 3 files")
        more.set()
        state = await wait_for(client, handle.task_id, "completed")
        assert state.result is not None
        assert state.result["content"][0]["text"].startswith("3 files: 3 done\n")
    remaining = [request.deadline_seconds or 0 for request in mapper.engines.requests]
    assert all(seconds > 1000 for seconds in remaining)


@posix_only
async def test_what_is_kept_is_for_the_user_alone(mapper: Mapper, project: Path) -> None:
    write(project, numbered(3))
    before = os.umask(0)
    try:
        await mapper.call()
    finally:
        os.umask(before)
    (path,) = mapper.results()
    for place, mode in (
        (path, 0o600),
        (path.parent, 0o700),
        (mapper.places.maps, 0o700),
        (mapper.places.maps / "cache.sqlite3", 0o600),
    ):
        assert place.stat().st_mode & 0o777 == mode


async def test_old_results_and_those_beyond_the_limit_go_but_not_the_own(mapper: Mapper, project: Path) -> None:
    write(project, numbered(4))
    for number in (1, 2, 3):
        await mapper.call(f"f0{number}.txt")
    first, second, third = mapper.results()
    for place, path in enumerate((first, second, third)):
        os.utime(path, (1_000_000_000 + place, 1_000_000_000 + place))
    mapper.map_given = {"keep_days": 0.0, "max_bytes": 2 * second.stat().st_size + 10}
    await mapper.call("f04.txt")
    assert set(mapper.results()) & {first, second, third} == {third}
    assert len(mapper.results()) == 2
    mapper.map_given = {"keep_days": 1.0}
    await mapper.call("f04.txt")
    assert len(mapper.results()) == 1
    assert third not in mapper.results()


async def test_the_cache_stays_within_its_bytes(mapper: Mapper, project: Path) -> None:
    write(project, numbered(60))
    mapper.map_given = {"cache_bytes": 100_000}
    mapper.engines.answer = lambda name, text: name * 1000
    await mapper.call()
    assert (mapper.places.maps / "cache.sqlite3").stat().st_size < 150_000
    mapper.engines.forget()
    await mapper.call("f0*.txt", "f[1-9]*.txt")
    assert 40 < len(mapper.engines.names) < 60


async def test_a_survey_that_takes_too_long_is_an_error(
    mapper: Mapper, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project, numbered(2))

    async def for_ever(self: survey.Survey, source: object) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(survey.Survey, "read", for_ever)
    assert "The files were not looked at yet when the 0.1 s" in await mapper.error(max_seconds=0.1)
