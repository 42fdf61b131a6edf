import re
from collections.abc import Sequence
from itertools import pairwise

import anyio
import pytest
from scripted_engine import Connect, ScriptedEngines, chunk, error_of, finished, said, texts

from gemma_mcp.server import replies

LOADING = chunk(loading=0.4)
QUEUED = chunk(queue_place=2)
READING = chunk(prompt_progress={"total": 4000, "cache": 1000, "processed": 1024, "time_ms": 5})


class Watcher:
    """Notes progress, and opens a gate when a message was seen."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float | None, str]] = []
        self._gates: dict[str, anyio.Event] = {}

    def gate(self, start: str) -> anyio.Event:
        """Opens when a message with `start` in it has arrived."""
        return self._gates.setdefault(start, anyio.Event())

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        self.seen.append((progress, total, message or ""))
        for start, gate in self._gates.items():
            if start in (message or ""):
                gate.set()

    @property
    def messages(self) -> list[str]:
        return [message for _, _, message in self.seen]


@pytest.mark.parametrize("era", ["2026-07-28", "legacy"])
async def test_progress_tells_of_queue_load_prefill_and_text(
    connect: Connect, engines: ScriptedEngines, monkeypatch: pytest.MonkeyPatch, era: str
) -> None:
    watcher = Watcher()
    monkeypatch.setattr("gemma_mcp.server.pace.SHORTEST", 0.0)
    engines.play(
        [
            watcher.gate("waiting for the engine"),
            LOADING,
            watcher.gate("loading 40 %"),
            chunk(loading=0.8),
            watcher.gate("loading 80 %"),
            QUEUED,
            watcher.gate("queued, place 2"),
            READING,
            watcher.gate("reading 1,024 of 4,000 tokens"),
            chunk(prompt_progress={"total": 4000, "cache": 1000, "processed": 2048, "time_ms": 9}),
            watcher.gate("reading 2,048 of 4,000 tokens"),
            said("Once upon\n"),
            watcher.gate("1 token · Once upon"),
            *[said(f"word{n} ") for n in range(100)],
            watcher.gate("word99"),
            finished(),
        ]
    )
    async with connect(era, progress_interval=0.1) as client:
        with anyio.fail_after(20):
            await client.call_tool("generate_text", {"prompt": "x"}, progress_callback=watcher)
        count = len(watcher.seen)
        assert not (await client.call_tool("generate_text", {"prompt": "x", "max_tokens": 1})).is_error
    assert len(watcher.seen) == count
    steps = [progress for progress, _, _ in watcher.seen]
    assert all(before < after for before, after in pairwise(steps))
    assert all(len(message) <= 200 and "\n" not in message for message in watcher.messages)
    rate, reading, left = next(message for message in watcher.messages if "2,048" in message).split(" · ")
    assert rate.endswith(" tok/s")
    assert reading == "reading 2,048 of 4,000 tokens"
    assert left.endswith(" s left")
    assert "loading 80 % · " in " ".join(watcher.messages)
    rate, tokens, left, newest = watcher.messages[-1].split(" · ")
    assert rate.endswith(" tok/s")
    assert tokens == "101 tokens"
    assert re.fullmatch(r"≤ \d+ s left", left)
    assert newest.startswith("…")
    assert newest.endswith("word98 word99")
    assert len(watcher.messages[-1]) == 200


async def test_progress_counts_the_tokens_that_the_engine_tells_not_the_pieces_of_text(
    connect: Connect, engines: ScriptedEngines
) -> None:
    watcher = Watcher()
    held = [chunk(choices=[{"delta": {"content": ""}}], generated=3), watcher.gate("3 tokens")]
    turned = chunk(choices=[{"delta": {"content": "né\u202e!"}}], generated=7)
    engines.play([*held, turned, watcher.gate("7 tokens"), finished()])
    async with connect(progress_interval=0.1) as client:
        with anyio.fail_after(20):
            await client.call_tool("generate_text", {"prompt": "x"}, progress_callback=watcher)
    assert watcher.messages[-1].endswith("né!")


async def test_progress_is_sent_no_more_often_than_configured(connect: Connect, engines: ScriptedEngines) -> None:
    watcher = Watcher()
    engines.play([*[said(f"{n} ") for n in range(500)], watcher.gate("499"), finished()])
    async with connect(progress_interval=0.1) as client:
        with anyio.fail_after(20):
            await client.call_tool("generate_text", {"prompt": "x"}, progress_callback=watcher)
    times = [progress for progress, _, _ in watcher.seen]
    assert len(times) < 400
    assert all(after - before >= 0.09 for before, after in pairwise(times))


async def test_silence_is_broken_by_a_heartbeat(
    connect: Connect, engines: ScriptedEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemma_mcp.server.progress.HEARTBEAT", 0.01)
    enough = anyio.Event()
    seen: list[str] = []

    async def watch(progress: float, total: float | None, message: str | None) -> None:
        seen.append(message or "")
        if len(seen) == 3:
            enough.set()

    engines.play([LOADING, enough, said("x"), finished()])
    async with connect(progress_interval=0.1) as client:
        with anyio.fail_after(20):
            await client.call_tool("generate_text", {"prompt": "x"}, progress_callback=watch)
    assert seen[-1] == seen[-2] == "loading 40 %"


@pytest.mark.parametrize("era", ["2026-07-28", "legacy"])
@pytest.mark.parametrize("script", [[], [LOADING], [QUEUED], [READING], [said("some "), said("text")]])
async def test_a_cancelled_call_leaves_the_engines_stream_and_says_nothing_more(
    connect: Connect, engines: ScriptedEngines, era: str, script: Sequence[replies.ChatCompletion]
) -> None:
    watcher = Watcher()
    engines.play([*script, anyio.Event()], [said("next"), finished()])
    async with connect(era) as client:
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                await client.call_tool("generate_text", {"prompt": "x"}, progress_callback=watcher)

            tasks.start_soon(call)
            await engines.entered.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(5):
            await engines.left.wait()
        assert engines.busy == 0
        count = len(watcher.seen)
        assert texts(await client.call_tool("generate_text", {"prompt": "x"}))[0] == "next"
        assert len(watcher.seen) == count


async def test_calls_at_once_run_at_once(connect: Connect, engines: ScriptedEngines) -> None:
    all_run = anyio.Event()
    engines.play(*[[said(f"{n}"), all_run, finished()] for n in range(6)])
    answers: list[str] = []
    async with connect() as client, anyio.create_task_group() as tasks:

        async def call(tool: str, argument: str) -> None:
            answers.append(texts(await client.call_tool(tool, {argument: "x"}))[0])

        for tool, argument in [("generate_text", "prompt"), ("chat", "message")] * 3:
            tasks.start_soon(call, tool, argument)
        with anyio.fail_after(10):
            while engines.busy < 6:
                await anyio.lowlevel.checkpoint()
        all_run.set()
    assert sorted(answers) == ["0", "1", "2", "3", "4", "5"]


async def test_text_that_was_written_when_time_is_up_is_given_back(
    connect: Connect, engines: ScriptedEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "GRACE", 0.0)
    engines.play([said("as far "), said("as this"), anyio.Event()])
    async with connect() as client:
        result = await client.call_tool("generate_text", {"prompt": "x", "max_seconds": 0.2})
    answer, line = texts(result)
    assert answer == "as far as this"
    assert "deadline (cut off by max_seconds)" in line
    assert engines.busy == 0


async def test_a_deadline_that_the_engine_kept_is_told_the_same_way(connect: Connect, engines: ScriptedEngines) -> None:
    engines.play([said("so far"), finished("deadline")])
    async with connect() as client:
        answer, line = texts(await client.call_tool("generate_text", {"prompt": "x"}))
    assert answer == "so far"
    assert "deadline (cut off by max_seconds)" in line


@pytest.mark.parametrize(
    ("waiting", "sentence"),
    [
        (LOADING, "not loaded yet when the 0.1 s of this call were over (loading 40 %). It keeps loading: call again"),
        (QUEUED, "no text yet when the 0.1 s of this call were over (queued, place 2)"),
        (READING, "(reading 1,024 of 4,000 tokens)"),
    ],
)
async def test_time_that_is_up_before_the_first_text_is_an_error_that_says_what_went_on(
    connect: Connect,
    engines: ScriptedEngines,
    monkeypatch: pytest.MonkeyPatch,
    waiting: replies.ChatCompletion,
    sentence: str,
) -> None:
    monkeypatch.setattr(replies, "GRACE", 0.0)
    engines.play([waiting, anyio.Event()])
    async with connect() as client:
        assert sentence in error_of(await client.call_tool("generate_text", {"prompt": "x", "max_seconds": 0.1}))


async def test_the_time_box_of_the_configuration_holds_when_a_call_names_none(
    connect: Connect, engines: ScriptedEngines
) -> None:
    async with connect(max_seconds=33.0) as client:
        await client.call_tool("generate_text", {"prompt": "x"})
    seconds = engines.requests[0].deadline_seconds
    assert seconds is not None
    assert 30 < seconds <= 33
