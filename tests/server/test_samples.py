"""Several answers to one prompt, and the one that is given back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.types import CallToolResult
from scripted_engine import Connect, ScriptedEngines, Step, chunk, error_of, finished, said, texts
from server_pipes import client_of, home_in

from gemma_mcp.errors import ContextOverflowError, DeadlineError, InvalidReplyError, QueueFullError
from gemma_mcp.types import choice_seed
from gemma_mcp.wire import ChatCompletion, ChatCompletionRequest

SCHEMA = {"type": "object"}


def likely(text: str, *logprobs: float) -> ChatCompletion:
    """A chunk of text whose tokens have these log-probabilities."""
    content = [{"token": "x", "logprob": value, "bytes": None, "top_logprobs": None} for value in logprobs]
    return chunk(choices=[{"delta": {"content": text}, "logprobs": {"content": content, "refusal": None}}])


def answer(text: str, *logprobs: float, reason: str = "stop") -> list[Step]:
    return [likely(text, *logprobs), finished(reason)]


async def asked(connect: Connect, engines: ScriptedEngines, *scripts: Sequence[Step], **given: Any) -> CallToolResult:
    """A call with a sample for each script."""
    engines.play(*scripts)
    arguments = {"prompt": "Which?", "samples": len(scripts), **given}
    async with connect() as client:
        return await client.call_tool("generate_text", arguments)


def details_of(result: CallToolResult) -> dict[str, Any]:
    assert result.meta is not None
    return result.meta["gemma-mcp"]["samples"]


async def test_the_likeliest_answer_by_the_mean_of_its_tokens_is_chosen(
    connect: Connect, engines: ScriptedEngines
) -> None:
    result = await asked(
        connect,
        engines,
        answer("short", -0.5),
        [likely("long ", -0.1, -0.4), *answer("and sure", -0.1, -0.2)],
        answer("short too", -0.3),
    )
    text, line = texts(result)
    assert text == "long and sure"
    assert "likeliest of 3 samples" in line
    details = details_of(result)
    assert [one["text"] for one in details["answers"]] == ["short", "long and sure", "short too"]
    assert [one["mean_logprob"] for one in details["answers"]] == [-0.5, -0.2, -0.3]
    assert (details["asked"], details["choose"]) == (3, "likeliest")


async def test_the_most_frequent_answer_wins_the_vote_whatever_its_case_and_spaces(
    connect: Connect, engines: ScriptedEngines
) -> None:
    result = await asked(
        connect,
        engines,
        answer("Berlin", -0.01),
        answer(" the  cat\n", -0.9),
        answer("The cat", -0.4),
        answer("the dog", -0.02),
        answer("THE CAT", -0.5),
        choose="vote",
    )
    text, line = texts(result)
    assert text == "The cat"
    assert "3 of 5 agree" in line
    details = details_of(result)
    assert (details["agree"], details["confidence"]) == (3, 0.6)
    assert [one["agrees"] for one in details["answers"]] == [False, True, True, False, True]


async def test_a_tied_vote_goes_to_the_likelier_answer(connect: Connect, engines: ScriptedEngines) -> None:
    scripts = [answer("a", -0.9), answer("b", -0.8), answer("a", -0.3), answer("b", -0.2)]
    result = await asked(connect, engines, *scripts, choose="vote")
    assert texts(result)[0] == "b"
    assert "2 of 4 agree" in texts(result)[1]


async def test_json_is_compared_by_its_values(connect: Connect, engines: ScriptedEngines) -> None:
    same = ['{"n": 1, "of": ["a", null]}', '{"of":["a",null],"n":1.0}', '{ "n":1e0, "of":[ "\\u0061", null ] }']
    other = ['{"n": true, "of": ["a", null]}', '{"n": 1, "of": ["A", null]}', '{"n": "1", "of": ["a", null]}']
    scripts = [answer(text, -0.1) for text in (*other, *same)]
    result = await asked(connect, engines, *scripts, choose="vote", json_schema=SCHEMA)
    assert "3 of 6 agree" in texts(result)[1]
    assert texts(result)[0] == same[0]


async def test_every_sample_gets_a_seed_of_its_own_and_log_probabilities(
    connect: Connect, engines: ScriptedEngines
) -> None:
    await asked(connect, engines, *[answer("x", -1.0)] * 3, seed=9, temperature=0.7)
    requests = [one for one in engines.requests if isinstance(one, ChatCompletionRequest)]
    assert [one.seed for one in requests] == [9, choice_seed(9, 1), choice_seed(9, 2)]
    assert {(one.logprobs, one.temperature, one.messages) for one in requests} == {
        (True, 0.7, requests[0].messages),
    }


async def test_without_a_temperature_samples_are_drawn_at_one(connect: Connect, engines: ScriptedEngines) -> None:
    await asked(connect, engines, *[answer("x", -1.0)] * 2)
    assert [(one.temperature, one.seed) for one in engines.requests] == [(1.0, None)] * 2


async def test_the_prompt_is_counted_once(connect: Connect, engines: ScriptedEngines) -> None:
    result = await asked(connect, engines, *[answer("x", -1.0)] * 3)
    assert "1,200 prompt (1,000 cached) + 21 completion tokens" in texts(result)[1]
    assert result.meta is not None
    assert result.meta["gemma-mcp"]["usage"]["total_tokens"] == 1221


async def test_samples_that_fail_by_themselves_disagree_and_cost_the_others_nothing(
    connect: Connect, engines: ScriptedEngines
) -> None:
    result = await asked(
        connect,
        engines,
        answer("1", -0.5),
        [InvalidReplyError("The reply is not what the schema asks for.", "Try again.")],
        answer("1", -0.5),
        [DeadlineError("Time was up.", "Allow more.")],
        choose="vote",
        json_schema={"type": "integer"},
    )
    line = texts(result)[1]
    assert "2 of 4 agree" in line
    assert "2 of 4 samples gave no answer: 1 not in time, 1 not as the schema asks" in line
    assert details_of(result)["confidence"] == 0.5
    assert len(details_of(result)["answers"]) == 2


async def test_an_answer_that_was_cut_off_is_chosen_only_where_none_is_whole(
    connect: Connect, engines: ScriptedEngines
) -> None:
    cut = answer("cut", -0.1, reason="length")
    result = await asked(connect, engines, cut, answer("whole", -0.9), cut, choose="vote")
    assert texts(result)[0] == "whole"
    assert "1 of 3 agree" in texts(result)[1]
    result = await asked(connect, engines, cut, answer("worse", -0.2, reason="deadline"))
    assert texts(result)[0] == "cut"
    assert "length (cut off at max_tokens)" in texts(result)[1]


async def test_without_any_answer_the_reason_is_told(connect: Connect, engines: ScriptedEngines) -> None:
    late = [DeadlineError("Time was up.", "Allow more.")]
    assert error_of(await asked(connect, engines, late, late)) == "Time was up. Allow more."


async def test_an_error_of_another_kind_ends_all_samples(connect: Connect, engines: ScriptedEngines) -> None:
    never = anyio.Event()
    result = await asked(connect, engines, [never], [QueueFullError(3)], [never])
    assert error_of(result) == str(QueueFullError(3))
    assert engines.busy == 0


async def test_a_prompt_that_does_not_fit_is_refused_as_ever(connect: Connect, engines: ScriptedEngines) -> None:
    error = ContextOverflowError(9000, 16, 8192)
    result = await asked(connect, engines, [error], [error], max_tokens=16)
    assert error_of(result) == str(error)


async def test_cancelling_the_call_ends_all_samples(connect: Connect, engines: ScriptedEngines) -> None:
    engines.play([anyio.Event()])
    async with connect() as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.call_tool, "generate_text", {"prompt": "x", "samples": 5})
        with anyio.fail_after(20):
            while engines.busy < 5:
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert len(engines.requests) == 5
    assert engines.busy == 0


async def test_progress_counts_all_samples(
    connect: Connect, engines: ScriptedEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemma_mcp.server.pace.SHORTEST", 0.0)
    gates = {words: anyio.Event() for words in ("2 tokens · 0 of 2 samples", "6 tokens · 1 of 2 samples")}
    seen: list[str] = []

    async def watch(progress: float, total: float | None, message: str | None) -> None:
        seen.append(message or "")
        for words, gate in gates.items():
            if words in seen[-1]:
                gate.set()

    begun, ended = gates.values()
    engines.play(
        [chunk(generated=1), begun, *answer("one", -1.0)],
        [chunk(generated=1), begun, chunk(generated=3), said("four"), ended, finished()],
    )
    async with connect(progress_interval=0.1) as client:
        with anyio.fail_after(20):
            arguments = {"prompt": "x", "samples": 2}
            await client.call_tool("generate_text", arguments, progress_callback=watch)
    assert all(len(message) <= 200 for message in seen)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"samples": 3, "temperature": 0}, "With `temperature` 0 all `samples` would be equal."),
        ({"samples": 3, "top_k": 1}, "With `top_k` 1 all `samples` would be equal."),
        ({"samples": 3, "overflow": "chunk"}, "`samples` does not go with `overflow` 'chunk'."),
        ({"choose": "vote"}, "`choose` was given without `samples`."),
        ({"samples": 1}, "`samples` must be at least 2, not 1."),
        ({"samples": 9}, "`samples` must be at most 8, not 9."),
        ({"samples": 2, "choose": "best"}, "`choose` must be one of 'likeliest' or 'vote', not the text 'best'."),
    ],
)
async def test_what_makes_no_sense_is_refused_in_a_sentence(
    connect: Connect, engines: ScriptedEngines, given: dict[str, object], words: str
) -> None:
    async with connect() as client:
        result = await client.call_tool("generate_text", {"prompt": "x", **given})
    assert words in error_of(result)
    assert not engines.requests


@pytest.mark.parametrize("model", ["echo", "starter"])
async def test_a_real_engine_votes(tmp_path: Path, model: str) -> None:
    home = home_in(tmp_path / "home", GEMMA_MCP_MODEL_DEFAULT=model)
    (tmp_path / "project").mkdir()
    given = {
        "prompt": "What is the capital of France?",
        "samples": 6,
        "choose": "vote",
        "seed": 3,
        "temperature": 0.5,
        "max_tokens": 40,
    }
    try:
        async with client_of(home.environ, tmp_path / "project") as client:
            result = await client.call_tool("generate_text", given)
            again = await client.call_tool("generate_text", given)
    finally:
        home.end()
    details = details_of(result)
    assert f"{details['agree']} of 6 agree" in texts(result)[1]
    assert texts(result)[0] == texts(again)[0]
    assert [one["text"] for one in details["answers"]] == [one["text"] for one in details_of(again)["answers"]]
    assert all(one["mean_logprob"] < 0 for one in details["answers"])
    assert [one["agrees"] for one in details["answers"]].count(True) == details["agree"]
    if model == "echo":
        assert details["confidence"] == 1
    else:
        assert "Paris" in texts(result)[0]
