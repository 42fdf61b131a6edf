"""The scheduler through its door, with the echo executor in this process and in a real worker."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import psutil
import pytest
from echo_scheduling import InProcess, ask, finished, first, picture, reply, scheduled, until, user

from gemma_mcp.engine.backend import LoadOptions, ModelSpec, Piece, TokenRow
from gemma_mcp.engine.model import LoadedModel, open_model
from gemma_mcp.engine.scheduler import Scheduler
from gemma_mcp.errors import (
    ContextOverflowError,
    DeadlineError,
    GemmaError,
    QueueFullError,
    RequestError,
    StepFailedError,
    WorkerDiedError,
)
from gemma_mcp.types import (
    Control,
    Delta,
    Finished,
    GenerationRequest,
    Grammar,
    Prefill,
    Queued,
    Segment,
    Text,
)


async def test_a_reply_ends_once_with_its_counts():
    async with scheduled() as (scheduler, _):
        text, events = await reply(scheduler, ask("hello"))
    assert text == "hello"
    end = finished(events)
    assert (end.reason, end.usage.completion_tokens, end.usage.cached_tokens) == ("stop", 5, 0)
    assert end.usage.prompt_tokens == len(b"user\nhello\nmodel\n") + 4
    assert end.timings.ttft_seconds <= end.timings.total_seconds


async def test_requests_decode_in_one_step():
    async with scheduled() as (scheduler, executor):
        async with anyio.create_task_group() as tasks:
            for text in ("one " * 20, "two " * 20, "six " * 20):
                tasks.start_soon(reply, scheduler, ask(text))
        widest = max(len(step.rows) for step in executor.steps)
    assert widest == 3


async def test_a_long_prompt_is_computed_in_chunks_between_decoding_rows():
    async with scheduled(prefill_chunk=16) as (scheduler, executor), scheduler.stream(ask("talk " * 30)) as talker:
        await first(talker, Delta)
        mark = len(executor.steps)
        text, events = await reply(scheduler, ask("x" * 200))
        steps = executor.steps[mark:]
    assert text == "x" * 200
    sizes = [[len(row.tokens) for row in step.rows if isinstance(row, TokenRow)] for step in steps]
    assert all(max(sizes_, default=0) <= 16 for sizes_ in sizes)
    assert [1, 16] in sizes
    done = [event.done_tokens for event in events if isinstance(event, Prefill)]
    assert done == sorted(done)
    assert done[-1] == finished(events).usage.prompt_tokens


async def test_the_next_turn_reuses_the_cache_of_the_one_before():
    async with scheduled() as (scheduler, _):
        await reply(scheduler, ask("tell me more"))
        text, events = await reply(scheduler, ask("tell me less"))
    assert text == "tell me less"
    assert finished(events).usage.cached_tokens == len(b"user\ntell me ") + 2


async def test_reuse_can_be_declined():
    async with scheduled() as (scheduler, _):
        await reply(scheduler, ask("tell me more"))
        _, events = await reply(scheduler, ask("tell me less", reuse_prefix=False))
    assert finished(events).usage.cached_tokens == 0


async def test_a_prefix_that_the_sliding_window_lost_is_computed_again():
    async with scheduled(window=8, slots=1, prefill_chunk=8) as (scheduler, _):
        await reply(scheduler, ask("a long story: " + "x" * 100))
        text, events = await reply(scheduler, ask("a long story: " + "y" * 10))
    assert text == "a long story: " + "y" * 10
    assert finished(events).usage.cached_tokens == 0


async def test_a_full_queue_refuses_at_the_door_and_tells_places(tmp_path: Path):
    hold = tmp_path / "go"
    async with scheduled(queue_limit=1, slots=1) as (scheduler, _):
        async with scheduler.stream(ask(f"!hold {hold} done")) as holder:
            await first(holder, Prefill)
            async with scheduler.stream(ask("second")) as second:
                assert await anext(second) == Queued(1)
                with pytest.raises(QueueFullError):
                    await reply(scheduler, ask("third"))
                hold.touch()
                words = [event.text async for event in second if isinstance(event, Delta)]
    assert "".join(words) == "second"


async def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers():
    async with scheduled(context_length=128) as (scheduler, _):
        with pytest.raises(ContextOverflowError) as caught:
            await reply(scheduler, ask("x" * 100, max_tokens=50))
        assert (caught.value.max_tokens, caught.value.context_length) == (50, 128)
        text, events = await reply(scheduler, ask("x" * 100))
    assert finished(events).reason == "length"
    assert len(text) == 128 - finished(events).usage.prompt_tokens


async def test_max_tokens_ends_a_reply_by_length():
    async with scheduled() as (scheduler, _):
        text, events = await reply(scheduler, ask("abcdef", max_tokens=3))
    assert (text, finished(events).reason) == ("abc", "length")


async def test_a_stop_string_never_leaks():
    async with scheduled() as (scheduler, _):
        text, events = await reply(scheduler, ask("one STOP two", stop=("STOP",)))
    assert (text, finished(events).reason) == ("one ", "stop")


async def test_cancelling_a_prefill_interrupts_the_step_and_frees_the_slot(tmp_path: Path):
    async with scheduled(slots=1) as (scheduler, executor):
        async with scheduler.stream(ask(f"!hold {tmp_path / 'never'} x")) as held:
            await first(held, Prefill)
            await until(lambda: len(executor.steps) == 1)
        text, _ = await reply(scheduler, ask("next"))
        assert text == "next"
        assert executor.results[0].status == "interrupted"
        assert scheduler.stats.running == 0


async def test_a_deadline_gives_the_text_so_far():
    async with scheduled() as (scheduler, _):
        text, events = await reply(scheduler, ask("!slow 0.05 " + "x" * 500, deadline_seconds=0.5))
    assert finished(events).reason == "deadline"
    assert set(text) == {"x"}


async def test_a_deadline_before_any_text_is_an_error_that_says_where(tmp_path: Path):
    async with scheduled(slots=1) as (scheduler, _):
        with pytest.raises(DeadlineError, match="reading the prompt"):
            await reply(scheduler, ask(f"!hold {tmp_path / 'never'} x", deadline_seconds=0.05))
        async with scheduler.stream(ask(f"!hold {tmp_path / 'never'} x")) as held:
            await first(held, Prefill)
            with pytest.raises(DeadlineError, match="waiting at place 1"):
                await reply(scheduler, ask("second", deadline_seconds=0.05))


async def test_a_deadline_before_the_prompt_is_read_does_not_speak_of_loading(monkeypatch: pytest.MonkeyPatch):
    async def never(_: InProcess, segments: Sequence[Segment]) -> tuple[Piece, ...]:
        await anyio.sleep_forever()
        raise AssertionError(segments)

    monkeypatch.setattr(InProcess, "encode", never)  # as a worker that was stopped
    async with scheduled(slots=1) as (scheduler, _):
        with pytest.raises(DeadlineError, match="before the prompt was taken apart") as caught:
            await reply(scheduler, ask("hello", deadline_seconds=0.01))
        assert "loading" not in caught.value.hint


async def test_a_deadline_while_there_is_no_worker_says_that_one_is_loaded():
    with pytest.raises(DeadlineError, match="while the model was loaded again"):
        await reply(Scheduler(queue_limit=1, prefill_chunk=64), ask("hello", deadline_seconds=0.01))


async def test_a_failing_pass_fails_its_requests_and_no_others():
    async with scheduled() as (scheduler, _):
        with pytest.raises(StepFailedError):
            await reply(scheduler, ask("!fail now"))
        assert (await reply(scheduler, ask("after")))[0] == "after"


async def test_a_row_without_a_token_fails_its_request_and_not_its_neighbours(tmp_path: Path):
    async with scheduled() as (scheduler, executor):
        async with scheduler.stream(ask(f"!hold {tmp_path / 'go'} neighbour")) as held:
            await first(held, Prefill)
            async with scheduler.stream(ask("!stuck now")) as stuck:
                (tmp_path / "go").touch()
                with anyio.fail_after(20), pytest.raises(RequestError, match="no token"):
                    await first(stuck, Finished)
            text = [event.text async for event in held if isinstance(event, Delta)]
        assert "".join(text) == "neighbour"
        assert max(len(step.rows) for step in executor.steps) == 2


async def test_options_that_the_backend_refuses_fail_that_request_alone():
    async with scheduled() as (scheduler, executor):
        bad = GenerationRequest(segments=user("x", picture(8)), grammar=Grammar("gbnf", " "))
        with pytest.raises(RequestError, match="grammar"):
            await reply(scheduler, bad)
        assert (await reply(scheduler, ask("fine")))[0] == "fine"
        assert executor.executor.prepared_media == 0


async def test_images_keep_their_order_and_are_released():
    async with scheduled() as (scheduler, executor):
        request = GenerationRequest(segments=user(" which?", picture(10), Text(" and "), picture(20)))
        text, _ = await reply(scheduler, request)
        assert text == "[image 10x8] and [image 20x8] which?"
        await until(lambda: executor.executor.prepared_media == 0)
        rows = [[type(row).__name__ for row in step.rows] for step in executor.steps]
        assert max(names.count("MediaRow") for names in rows) == 1


async def test_the_same_image_is_reused_and_another_is_not():
    async with scheduled(slots=1) as (scheduler, _):
        await reply(scheduler, GenerationRequest(segments=user(" first?", picture(10))))
        text, events = await reply(scheduler, GenerationRequest(segments=user(" other?", picture(10))))
        assert finished(events).usage.cached_tokens > 4
        text, events = await reply(scheduler, GenerationRequest(segments=user(" other?", picture(30))))
    assert text == "[image 30x8] other?"
    assert finished(events).usage.cached_tokens == len(b"user\n") + 2


async def test_a_prompt_that_ends_in_an_image_is_refused():
    async with scheduled() as (scheduler, _):
        with pytest.raises(RequestError, match="no text to continue"):
            await reply(scheduler, GenerationRequest(segments=(picture(8),)))


async def test_logprobs_come_with_their_tokens():
    async with scheduled() as (scheduler, _):
        _, events = await reply(scheduler, ask("hey", logprobs=1))
    chosen = [item for event in events if isinstance(event, Delta) for item in event.logprobs]
    assert b"".join(item.piece for item in chosen) == b"hey"
    assert all(item.logprob < 0 and len(item.top) == 1 for item in chosen)


@pytest.mark.parametrize(
    ("said", "stop", "shown"),
    [("one STOP two", "STOP", "one "), ("a ST STO", "STOP", "a ST STO"), ("aé€", "é€", "a"), ("é!", "é€", "é!")],
)
async def test_a_stop_string_never_leaks_by_its_logprobs(said: str, stop: str, shown: str):
    async with scheduled() as (scheduler, _):
        text, events = await reply(scheduler, ask(said, stop=(stop,), logprobs=1))
    tokens = [item.piece for event in events if isinstance(event, Delta) for item in event.logprobs]
    assert text == b"".join(tokens).decode() == shown


async def test_broken_utf8_does_not_break_the_stream():
    async with scheduled() as (scheduler, _):
        text, events = await reply(scheduler, ask("!raw 61ff62c3"))
    assert text == "a\ufffdb"
    assert finished(events).usage.completion_tokens == 4


# --- with a real worker process ---------------------------------------------------------------------------------


def opened(tmp_path: Path, **options: int) -> AbstractAsyncContextManager[LoadedModel]:
    return open_model(
        "echo",
        ModelSpec(name="echo", format="echo", path=""),
        LoadOptions(**options),  # pyright: ignore[reportArgumentType]
        queue_limit=8,
        prefill_chunk=64,
        log=tmp_path / "worker.log",
        load_timeout=30,
    )


async def test_a_worker_process_serves_many_at_once(tmp_path: Path):
    async with opened(tmp_path) as model:
        texts: dict[str, str] = {}

        async def one(text: str) -> None:
            texts[text] = (await reply(model, ask(text)))[0]

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(one, f"request {number}")
    assert all(asked == said for asked, said in texts.items())
    assert len(texts) == 10


async def test_what_goes_on_with_a_worker_that_died_in_a_prefill_or_while_decoding(tmp_path: Path):
    async with opened(tmp_path) as model:
        dies_early = ask(f"!once {tmp_path / 'a'} !die-at 0 recovered")
        assert (await reply(model, dies_early))[0] == "recovered"
        text, events = await reply(model, ask(f"!once {tmp_path / 'b'} !die-at 4 recovered again"))
        assert text == "recovered again"
        assert finished(events).usage.completion_tokens == len(text)
        assert model.stats.restarts == 2


async def test_a_request_that_kills_every_worker_is_refused_and_its_neighbours_are_not(tmp_path: Path):
    async with opened(tmp_path) as model:
        outcomes: dict[str, str] = {}

        async def one(text: str) -> None:
            try:
                outcomes[text] = (await reply(model, ask(text)))[0]
            except GemmaError as error:
                outcomes[text] = type(error).__name__

        async with anyio.create_task_group() as tasks:
            for text in ("a" * 50, "!die-at 10 " + "b" * 50, "c" * 50):
                tasks.start_soon(one, text)
        assert sorted(outcomes.values()) == ["WorkerDiedError", "a" * 50, "c" * 50]
        restarts = model.stats.restarts
        with pytest.raises(WorkerDiedError, match="refused"):
            await reply(model, ask("!die-at 10 " + "b" * 50))
        assert model.stats.restarts == restarts


async def test_an_idle_worker_that_was_killed_is_replaced_by_the_next_request(tmp_path: Path):
    async with opened(tmp_path) as model:
        pid = model.worker_pid
        assert pid is not None
        psutil.Process(pid).kill()
        await until(lambda: model.worker_pid is None)
        assert (await reply(model, ask("still here")))[0] == "still here"
        assert model.worker_pid != pid


async def test_images_are_prepared_again_for_a_new_worker(tmp_path: Path):
    async with opened(tmp_path) as model:
        order = Text(f"!once {tmp_path / 'once'} !die-at 2 ")
        turn = (
            Control("<bos><start_of_turn>user\n"),
            order,
            picture(12),
            Text("!"),
            Control("<end_of_turn>\n<start_of_turn>model\n"),
        )
        text, _ = await reply(model, GenerationRequest(segments=turn))
    assert text == "[image 12x8]!"


async def test_a_backend_that_is_not_there_is_named_with_those_that_are(tmp_path: Path):
    spec = ModelSpec(name="x", format="x", path="")
    with pytest.raises(GemmaError, match=r"no backend 'nope'.*echo"):
        async with open_model(
            "nope", spec, LoadOptions(), queue_limit=1, prefill_chunk=64, log=tmp_path / "w.log", load_timeout=30
        ):
            pass


async def test_leaving_a_model_ends_its_process_and_tells_those_who_wait(tmp_path: Path):
    outcome: list[GemmaError] = []
    pids: list[int] = []
    started = anyio.Event()

    async def wait_for(model: LoadedModel) -> None:
        try:
            async with model.stream(ask(f"!hold {tmp_path / 'never'} x")) as events:
                async for _ in events:
                    started.set()
        except GemmaError as error:
            outcome.append(error)

    async with anyio.create_task_group() as tasks, opened(tmp_path) as model:
        pids += [model.worker_pid or 0]
        tasks.start_soon(wait_for, model)
        await started.wait()
    assert isinstance(outcome[0], WorkerDiedError)
    assert not psutil.pid_exists(pids[0])
