"""Equal output, as it is promised: at temperature 0 a prompt gives the same tokens alone, in a batch and from a cache.

Other batch shapes round differently, so two runs may part where the two likeliest tokens are closer than 0.01 in log
probability, and nowhere else; and of 200 prompts at least 198 agree to the end.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psutil
import pytest

from gemma_mcp.chat.messages import Message
from gemma_mcp.chat.template import ChatTemplate
from gemma_mcp.engine.backend import LoadOptions
from gemma_mcp.engine.model import LoadedModel, open_model
from gemma_mcp.models.lookup import starter_model
from gemma_mcp.types import Delta, GenerationRequest, Sampling, Text, TokenLogprob
from training.evaluate import TEXT_JOBS, items

STARTER = Path(__file__).parents[2] / "gemma_mcp" / "starter"
PROMPTS = 200
NEAR_TIE = 0.01
NEAR_TIE_LATER = 0.05
"""Behind three turns the starter's log-probabilities move by more in any other batch, with shared cells or without."""
SAME_TO_THE_END = 0.99

Reply = tuple[TokenLogprob, ...]


@asynccontextmanager
async def starter(
    log: Path, slots: int, prefill_chunk: int = 256, speculate: bool = True
) -> AsyncGenerator[LoadedModel]:
    options = LoadOptions(context_length=1024, slots=slots, threads=1)
    spec = starter_model(STARTER)
    async with open_model(
        "llamacpp",
        spec,
        options,
        queue_limit=PROMPTS,
        prefill_chunk=prefill_chunk,
        checkpoint_bytes=50_000_000,
        speculate=speculate,
        log=log,
        load_timeout=120,
    ) as model:
        yield model


def conversations() -> list[list[Message]]:
    """Held-out prompts of all text jobs, PROMPTS of them, with the turns before the last."""
    jobs = [job for job in TEXT_JOBS if job not in ("fim", "completion")]
    each = -(-PROMPTS // len(jobs))
    asked = [item.messages for job in jobs for item in items(job, each, seed=7)][:PROMPTS]
    return [[said(turn["role"], turn["content"]) for turn in turns] for turns in asked]


def said(role: str, text: str) -> Message:
    assert role in ("system", "user", "assistant")
    return Message(role, (Text(text),))


async def reply(model: LoadedModel, conversation: Sequence[Message], *, reuse_prefix: bool) -> Reply:
    segments = ChatTemplate.of(model.info).render(conversation)
    request = GenerationRequest(
        segments=segments,
        sampling=Sampling(temperature=0.0),
        max_tokens=64,
        logprobs=2,
        reuse_prefix=reuse_prefix,
    )
    async with model.stream(request) as events:
        return tuple([item async for event in events if isinstance(event, Delta) for item in event.logprobs])


async def one_by_one(model: LoadedModel, prompts: Sequence[Sequence[Message]]) -> list[Reply]:
    return [await reply(model, prompt, reuse_prefix=False) for prompt in prompts]


async def all_at_once(model: LoadedModel, prompts: Sequence[Sequence[Message]], *, reuse_prefix: bool) -> list[Reply]:
    replies: dict[int, Reply] = {}

    async def ask(number: int, prompt: Sequence[Message]) -> None:
        replies[number] = await reply(model, prompt, reuse_prefix=reuse_prefix)

    async with anyio.create_task_group() as tasks:
        for number, prompt in enumerate(prompts):
            tasks.start_soon(ask, number, prompt)
    return [replies[number] for number in range(len(prompts))]


def parts_only_at_a_near_tie(one: Reply, other: Reply, near: float) -> bool:
    for a, b in zip(one, other, strict=False):
        if a.token != b.token:
            return min(lead(a), lead(b)) < near
    return True


def lead(choice: TokenLogprob) -> float:
    """By how much the likeliest token leads the next, in log probability."""
    (_, _, best), (_, _, second) = choice.top
    return best - second


def assert_equal_output(alone: list[Reply], other: list[Reply], near: float = NEAR_TIE) -> None:
    pairs = list(zip(alone, other, strict=True))
    assert all(parts_only_at_a_near_tie(a, b, near) for a, b in pairs)
    same = sum([x.token for x in a] == [x.token for x in b] for a, b in pairs)
    assert same >= SAME_TO_THE_END * len(pairs)


@pytest.fixture(scope="module")
def prompts() -> list[list[Message]]:
    return conversations()


async def test_replies_are_the_same_alone_in_a_batch_and_from_a_cache(tmp_path: Path, prompts: list[list[Message]]):
    async with starter(tmp_path / "alone.log", slots=1, speculate=False) as model:
        alone = await one_by_one(model, prompts)
    async with starter(tmp_path / "together.log", slots=8, prefill_chunk=32) as model:
        assert_equal_output(alone, await all_at_once(model, prompts, reuse_prefix=False))
        assert_equal_output(alone, await all_at_once(model, prompts, reuse_prefix=True))
        assert model.stats.cached_tokens > 0
        assert model.stats.guessed_tokens > 0


async def test_replies_are_the_same_when_their_prompts_begin_alike(tmp_path: Path, prompts: list[list[Message]]):
    """Forked, behind a leader, from checkpoints: whatever the scheduler makes of it."""
    before = [said("user", "What is the capital of France?"), said("assistant", "Paris.")] * 3
    alike = [[*before, *prompt] for prompt in prompts]
    async with starter(tmp_path / "alone.log", slots=1, speculate=False) as model:
        alone = await one_by_one(model, alike)
    async with starter(tmp_path / "forked.log", slots=8) as model:
        assert_equal_output(alone, await all_at_once(model, alike, reuse_prefix=True), NEAR_TIE_LATER)
        assert model.stats.forks >= 7


async def test_a_restarted_worker_goes_on_with_the_same_text(tmp_path: Path):
    question = [said("user", "Repeat: one two three four five six seven eight")]
    async with starter(tmp_path / "whole.log", slots=1) as model:
        whole = await reply(model, question, reuse_prefix=False)
    async with starter(tmp_path / "killed.log", slots=1) as model:
        segments = ChatTemplate.of(model.info).render(question)
        request = GenerationRequest(segments=segments, sampling=Sampling(temperature=0.0), max_tokens=64)
        text = ""
        async with model.stream(request) as events:
            async for event in events:
                if isinstance(event, Delta):
                    if not text and model.worker_pid is not None:
                        psutil.Process(model.worker_pid).kill()
                    text += event.text
        assert model.stats.restarts == 1
    assert text == b"".join(item.piece for item in whole).decode()
