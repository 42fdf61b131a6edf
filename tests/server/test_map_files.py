import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from map_calls import INSTRUCTION, Mapper, numbered
from project_trees import write
from scripted_engine import Step, chunk, finished, said, texts

from gemma_mcp.errors import (
    ContextOverflowError,
    InvalidReplyError,
    QueueFullError,
    RemoteError,
    StepFailedError,
    UnknownModelError,
)
from gemma_mcp.server.maps import bulk
from gemma_mcp.server.savings import SavingsStore, savings_path
from gemma_mcp.state import EngineStatus, LoadedStatus

SCHEMA = {"type": "object", "properties": {"subject": {"type": "string"}}, "required": ["subject"]}


async def test_every_file_of_a_pattern_is_one_row_in_the_order_of_the_files(mapper: Mapper, project: Path) -> None:
    write(project, {**numbered(12), "ignored.txt": "x", ".gitignore": "ignored.txt", "other.md": "no"})
    digest, line = texts(await mapper.call())
    assert [row["path"] for row in mapper.rows()] == sorted(numbered(12))
    first = mapper.rows()[0]
    assert {name: first[name] for name in ("path", "status", "result", "model", "finish_reason")} == {
        "path": "f01.txt",
        "status": "ok",
        "result": "SUBJECT 1",
        "model": "scripted",
        "finish_reason": "stop",
    }
    assert (first["prompt_tokens"], first["cached_tokens"], first["completion_tokens"]) == (1200, 1000, 7)
    assert digest.startswith(
        f"12 files: 12 done\nResults (JSON Lines): {mapper.results()[0]}\nThe first 5:\n- f01.txt: "
    )
    assert line.startswith("[scripted · CPU · stop · 14,400 prompt (12,000 cached) + 84 completion tokens · ")


async def test_all_questions_begin_alike_and_end_with_their_file(mapper: Mapper, project: Path) -> None:
    write(project, numbered(3))
    await mapper.call()
    assert sorted(mapper.engines.prompts) == [
        f'{INSTRUCTION}\n\n<file path="f0{number}.txt">\nsubject {number}\n</file>' for number in (1, 2, 3)
    ]
    for request in mapper.engines.requests:
        assert (request.priority, request.temperature, request.max_tokens) == ("bulk", 0.0, 1024)


async def test_what_cannot_be_read_is_refused_and_the_rest_is_done(mapper: Mapper, project: Path) -> None:
    write(project, {"a.txt": "a", "empty.txt": " \n", ".env": "KEY=1", "sub/x": ""})
    (project / "b.bin").write_bytes(b"\0\xff\xfe\0" * 50)
    (project / "large.txt").write_bytes(b"x" * 5000)
    mapper.map_given = {"max_file_bytes": 4000}
    specs = ["*.txt", "*.bin", ".env", "gone.txt", "sub", "*.none", "../up.txt", "a.txt:9"]
    digest = await mapper.digest(*specs)
    assert digest.startswith("10 files: 1 done, 9 refused\n")
    reasons = {row["path"]: row["reason"] for row in mapper.rows() if row["status"] == "refused"}
    for path, reason in {
        "empty.txt": "It is empty.",
        "b.bin": "It is not a text file.",
        "large.txt": "It has 5,000 bytes, more than the 4,000 that are allowed.",
        ".env": "By its name it holds secrets.",
        "gone.txt": "There is no such file in the project folder.",
        "sub": "It is a folder.",
        "*.none": "It matches no file.",
        "../up.txt": "It lies outside the project folder.",
        "a.txt:9": "The file has only 1 lines.",
    }.items():
        assert reasons[path].startswith(reason)
    assert "- 1 x It is empty. (empty.txt)" in digest
    before = mapper.rows()
    await mapper.call(*specs)
    assert mapper.rows() == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"instruction": " "}, "`instruction` is empty."),
        ({"files": []}, "`files` is empty."),
        ({"files": [""]}, "An item of `files` is empty."),
        ({"file": ["a.txt"]}, "Unknown argument `file` (did you mean `files`?)."),
        ({"per": "word"}, "`per` must be one of 'file', 'chunk' or 'line', not the text 'word'."),
        ({"chunk_tokens": 500}, "`chunk_tokens` was given without `per`: 'chunk'."),
        ({"chunk_tokens": 5, "per": "chunk"}, "`chunk_tokens` must be at least 64, not 5."),
        ({"chunk_tokens": 8000, "per": "chunk"}, "has room for chunks of 7,087 tokens. Lower chunk_tokens"),
        ({"json_schema": "{"}, "`json_schema` is not valid JSON."),
        ({"json_schema": {"type": "objct"}}, "objct"),
        ({"temperature": 3}, "`temperature` must be at most 2, not 3."),
        ({"output": "a.jsonl"}, "Unknown argument `output`."),
        ({"files": ["gone.txt"]}, "gone.txt: there is no such file in the project folder."),
        ({"files": ["*.md"]}, "*.md: it matches no file."),
        ({"files": ["a.txt:3-1"]}, "lines are counted from 1"),
        ({"files": ["git:diff"]}, "git:diff: "),
    ],
)
async def test_bad_input_is_one_clear_error_and_asks_no_model(
    mapper: Mapper, project: Path, arguments: dict[str, Any], sentence: str
) -> None:
    write(project, {"a.txt": "a"})
    assert sentence in await mapper.error(**arguments)
    assert not mapper.engines.requests
    assert mapper.results() == []


async def test_too_much_for_one_call_is_refused(mapper: Mapper, project: Path) -> None:
    write(project, {**numbered(4), "l.jsonl": "{}\n" * 9})
    mapper.map_given = {"max_files": 3, "max_records": 8}
    assert "4 files match, more than the 3" in await mapper.error()
    assert "more than the 3 that map.max_files allows" in await mapper.error(*numbered(4))
    assert "more than the 8 lines that map.max_records allows" in await mapper.error("l.jsonl", per="line")
    assert not mapper.engines.requests


async def test_a_hundred_files_are_no_more_than_one_call_takes(mapper: Mapper, project: Path) -> None:
    write(project, {f"d/{number}.txt": f"text {number}" for number in range(150)})
    assert (await mapper.digest("d/*")).startswith("150 files: 150 done\n")
    assert len(mapper.rows()) == 150


async def test_lines_are_records_and_equal_ones_are_asked_once(mapper: Mapper, project: Path) -> None:
    write(project, {"log.jsonl": '{"a": 1}\n\n{"b": 2}\r\n{"a": 1}\n{"c": 3}'})
    digest = await mapper.digest("log.jsonl", per="line")
    assert digest.startswith("4 lines: 4 done (1 from the cache)\n")
    assert [(row["lines"], row["result"]) for row in mapper.rows()] == [
        ("1", '{"A": 1}'),
        ("3", '{"B": 2}'),
        ("4", '{"A": 1}'),
        ("5", '{"C": 3}'),
    ]
    assert sorted(mapper.engines.prompts)[0] == f'{INSTRUCTION}\n\n<file path="log.jsonl">\n{{"a": 1}}\n</file>'
    assert len(mapper.engines.prompts) == 3
    write(project, {"log.jsonl": '{"new": 0}\n{"a": 1}\n\n{"b": 2}\r\n{"a": 1}\n{"c": 3}'})
    mapper.engines.forget()
    await mapper.call("log.jsonl", per="line")
    assert len(mapper.engines.prompts) == 1
    assert [row["lines"] for row in mapper.rows()] == ["1", "2", "4", "5", "6"]


async def test_lines_of_a_range_keep_their_numbers(mapper: Mapper, project: Path) -> None:
    write(project, {"log.txt": "".join(f"line {number}\n" for number in range(1, 20))})
    await mapper.call("log.txt:5-7", per="line")
    assert mapper.by_path() == {"log.txt:5": "LINE 5", "log.txt:6": "LINE 6", "log.txt:7": "LINE 7"}


async def test_chunks_hold_every_character_once_and_know_their_lines(mapper: Mapper, project: Path) -> None:
    text = "".join(f"line {number} of a log that goes on and on\n" for number in range(1, 101))
    write(project, {"log.txt": text, "short.txt": "short\n"})
    await mapper.call(per="chunk", chunk_tokens=800)
    rows = [row for row in mapper.rows() if row["path"] == "log.txt"]
    blocks = {row["lines"]: row["result"] for row in rows}
    assert len(rows) > 4
    ends = [tuple(map(int, lines.split("-"))) for lines in blocks]
    assert ends[0][0] == 1
    assert ends[-1][1] == 100
    assert all(before[1] + 1 == after[0] for before, after in pairwise(ends))
    assert "\n".join(blocks.values()).swapcase() + "\n" == text
    assert all(len(prompt) < 800 + len(INSTRUCTION) + 10 for prompt in mapper.engines.prompts)
    assert mapper.by_path()["short.txt"] == "SHORT"


async def test_a_file_too_long_for_the_context_is_one_row_merged_from_pieces(mapper: Mapper, project: Path) -> None:
    write(project, {"long.txt": "".join(f"line {number}\n" for number in range(1500)), "short.txt": "short"})

    def answer(name: str, text: str) -> Step | str:
        if name.startswith("answer"):
            return "merged"
        return ContextOverflowError(len(text), 1024, 8192) if len(text) > 7000 else "part"

    mapper.engines.answer = answer
    assert (await mapper.digest()).startswith("2 files: 2 done\n")
    rows = {row["path"]: row for row in mapper.rows()}
    assert rows["long.txt"]["result"] == "merged"
    assert rows["long.txt"]["notes"] == ["read in 3 pieces"]
    pieces = [prompt for prompt in mapper.engines.prompts if "(Above is part" in prompt]
    assert all(prompt.startswith(f'{INSTRUCTION}\n\n<file path="long.txt" lines="') for prompt in pieces)


async def test_a_schema_gives_values_and_those_that_miss_it_fail_alone(mapper: Mapper, project: Path) -> None:
    write(project, numbered(5))
    replies: dict[str, Step | str] = {
        "f01.txt": '{"subject":\n "a \\ud83d b"}\r\n',
        "f02.txt": InvalidReplyError("The reply does not satisfy the schema: 7 is not a string.", "Try again."),
        "f03.txt": "no JSON",
        "f04.txt": '{"subject": NaN}',
        "f05.txt": InvalidReplyError("The reply does not satisfy the schema: 8 is not a string.", "Try again."),
    }
    mapper.engines.answer = lambda name, text: replies[name]
    digest = await mapper.digest(json_schema=SCHEMA)
    assert digest.startswith("5 files: 1 done, 4 failed\n")
    assert '- f01.txt: {"subject": "a \ufffd b"}' in digest
    assert "- 2 x The reply is not JSON." in digest
    assert "- 2 x The reply does not satisfy the schema: 7 is not a string. Try again. (f02.txt, f05.txt)" in digest
    assert digest.endswith("The same call again tries those that failed once more.")
    assert mapper.by_path()["f01.txt"] == {"subject": "a \ufffd b"}
    mapper.engines.forget()
    mapper.engines.answer = lambda name, text: '{"subject": "now"}'
    assert (await mapper.digest(json_schema=json.dumps(SCHEMA))).startswith("5 files: 5 done (1 by an earlier call)")
    assert sorted(mapper.engines.names) == ["f02.txt", "f03.txt", "f04.txt", "f05.txt"]
    assert [row["status"] for row in mapper.rows()] == ["ok"] * 5


async def test_a_failing_record_does_not_end_the_others(mapper: Mapper, project: Path) -> None:
    write(project, numbered(9))
    mapper.engines.answer = lambda name, text: StepFailedError("It broke.") if name == "f04.txt" else "fine"
    assert (await mapper.digest()).startswith("9 files: 8 done, 1 failed\n")
    assert mapper.by_path()["f04.txt"] == "failed"


async def test_an_error_that_all_would_meet_ends_the_call(mapper: Mapper, project: Path) -> None:
    write(project, numbered(20))
    mapper.engines.answer = lambda name, text: UnknownModelError("gema", ["gemma"])
    assert "There is no model 'gema' here. Known models: gemma." in await mapper.error(model="gema")
    assert len(mapper.engines.prompts) <= 6
    mapper.engines.forget()
    mapper.engines.answer = lambda name, text: RemoteError("The engine could not be started.")
    assert "The engine could not be started." in await mapper.error()
    assert len(mapper.engines.prompts) <= 20


async def test_an_engine_that_ends_in_the_middle_is_asked_once_more(mapper: Mapper, project: Path) -> None:
    write(project, {"a.txt": "a", "b.txt": "b"})
    broken = ["a.txt", "b.txt"]

    def answer(name: str, text: str) -> list[Step] | str:
        if name not in broken:
            return "whole"
        broken.remove(name)
        return [said("ha"), RemoteError("The engine ended in the middle of a reply.")]

    mapper.engines.answer = answer
    await mapper.call()
    assert mapper.by_path() == {"a.txt": "whole", "b.txt": "whole"}


async def test_a_full_queue_is_waited_for(mapper: Mapper, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "FIRST_PAUSE", 0.001)
    write(project, numbered(10))
    full = dict.fromkeys(numbered(10), 3)

    def answer(name: str, text: str) -> Step | str:
        full[name] -= 1
        return QueueFullError(64) if full[name] >= 0 else "fine"

    mapper.engines.answer = answer
    assert (await mapper.digest()).startswith("10 files: 10 done\n")


@pytest.mark.parametrize(("at_once", "most"), [(0, 6), (2, 2)])
async def test_no_more_questions_are_under_way_than_configured(
    mapper: Mapper, project: Path, at_once: int, most: int
) -> None:
    write(project, numbered(20))
    mapper.map_given = {"at_once": at_once}
    full = anyio.Event()

    def answer(name: str, text: str) -> list[Step]:
        if mapper.engines.busy + 1 == most:
            full.set()
        return [full, said("fine"), finished()]

    mapper.engines.answer = answer
    with anyio.fail_after(30):
        await mapper.call()
    assert mapper.engines.most_busy == most


async def test_progress_tells_how_many_are_done_how_fast_and_how_long_it_takes(
    mapper: Mapper, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemma_mcp.server.pace.SHORTEST", 0.0)
    write(project, {f"{'long ' * 30}{number}.txt": f"text {number}" for number in range(4)})
    seen: list[tuple[float, str]] = []
    loading, late = anyio.Event(), anyio.Event()

    async def told(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, message or ""))
        if "loading 40 %" in (message or ""):
            loading.set()
        if re.match(r"[\d.,]+/(s|min) · 3 of 4 files · .* left · … *", message or ""):
            late.set()

    def answer(name: str, text: str) -> list[Step]:
        if name.endswith("0.txt"):
            return [chunk(loading=0.4), loading, said("words "), late, finished()]
        return [chunk(loading=0.4), loading, said("fine"), finished()]

    mapper.engines.answer = answer
    with anyio.fail_after(30):
        await mapper.call(told=told)
    assert any(re.match(r"0 of 4 files · .*loading 40 %", message) for _, message in seen)
    assert all(len(message) <= 200 for _, message in seen)
    times = [progress for progress, _ in seen]
    assert times == sorted(set(times))


async def test_the_digest_stays_short_however_much_there_is(mapper: Mapper, project: Path) -> None:
    write(project, {f"{'deep/' * 15}{number:03}{'x' * 150}.txt": f"{number}" for number in range(60)})

    def answer(name: str, text: str) -> Step | str:
        return StepFailedError(f"{'It broke ' * 200} {text}") if int(text) % 3 == 0 else "words " * 2000

    mapper.engines.answer = answer
    digest = await mapper.digest("deep/**/*.txt", "gone.txt", "gone too.txt", "*.none")
    assert len(digest) < 2500
    assert "63 files: 40 done, 20 failed, 3 refused" in digest


async def test_an_answer_that_was_cut_off_is_counted(mapper: Mapper, project: Path) -> None:
    write(project, numbered(2))
    mapper.engines.answer = lambda name, text: [said("cut"), finished("length")]
    assert (await mapper.digest()).startswith("2 files: 2 done (2 cut off at max_tokens)\n")
    assert {row["finish_reason"] for row in mapper.rows()} == {"length"}


async def test_a_client_was_spared_the_texts_of_files_but_not_the_digest(mapper: Mapper, project: Path) -> None:
    write(project, {"a.txt": "a" * 3000 + "\n", "b.txt": "b" * 2000})
    models = (LoadedStatus(model="scripted"),)
    mapper.engines.status = EngineStatus(
        pid=1, port=2, version="0", wire_version=1, fingerprint="", started=0.0, models=models
    )
    shown = sum(map(len, texts(await mapper.call())))
    figures = SavingsStore(savings_path(mapper.places)).total()
    assert (figures.file_tokens, figures.result_tokens) == (5001, shown)
