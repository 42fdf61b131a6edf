"""Several answers to one prompt, and the one to give back: the likeliest, or the one that most of them agree on.

They are requests of their own, sent at once; the engine computes the prompt that they share once. An answer that did
not come in time, or whose JSON does not satisfy its schema, costs the others nothing.
"""

import json
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal, cast

import anyio
from mcp.server.mcpserver import Context

from gemma_mcp.errors import DeadlineError, GemmaError, InvalidReplyError
from gemma_mcp.server.caller import Caller, Options
from gemma_mcp.server.progress import Chorus
from gemma_mcp.server.replies import Reply
from gemma_mcp.types import choice_seed
from gemma_mcp.wire import ChatMessage, PromptTokensDetails, WireUsage

__all__ = ["Choose", "Samples", "best_sample"]

Choose = Literal["likeliest", "vote"]

TEMPERATURE = 1.0
"""Where none is given: Google's for Gemma. A model's own may be 0, which would make all answers equal."""


@dataclass(frozen=True)
class Samples:
    """How many answers are asked for, and how one is chosen: `likeliest` by the mean log-probability of its tokens,
    `vote` by how many say the same.
    """

    count: int
    choose: Choose


@dataclass(frozen=True)
class Answers:
    """The replies that came, and why the others did not."""

    replies: Sequence[Reply]
    lost: Sequence[GemmaError]


async def best_sample(
    caller: Caller, context: Context, messages: Sequence[ChatMessage], options: Options, samples: Samples
) -> Reply:
    """The chosen answer, with the tokens of all and a note on how it was chosen.

    Raises GemmaError when there is no answer at all, and whatever else ends one of them.
    """
    async with caller.reporting(context) as progress:
        chorus = Chorus(progress, samples.count)
        answers = await _ask_all(caller, chorus, messages, _sampling(options), samples.count)
    if not answers.replies:
        raise answers.lost[0]
    return _chosen(answers, samples, as_json=options.json_schema is not None)


def _sampling(options: Options) -> Options:
    temperature = TEMPERATURE if options.temperature is None else options.temperature
    return replace(options, temperature=temperature, logprobs=True)


async def _ask_all(
    caller: Caller, chorus: Chorus, messages: Sequence[ChatMessage], options: Options, count: int
) -> Answers:
    replies: dict[int, Reply] = {}
    lost: list[GemmaError] = []
    failures: list[GemmaError] = []

    async def ask(index: int) -> None:
        seed = None if options.seed is None else choice_seed(options.seed, index)
        try:
            replies[index] = await caller.ask(chorus.voice(index), messages, replace(options, seed=seed))
        except (DeadlineError, InvalidReplyError) as error:
            lost.append(error)
        except GemmaError as error:
            failures.append(error)
            tasks.cancel_scope.cancel()
        chorus.end()

    async with anyio.create_task_group() as tasks:
        for index in range(count):
            tasks.start_soon(ask, index)
    if failures:
        raise failures[0]
    return Answers([replies[index] for index in sorted(replies)], lost)


def _chosen(answers: Answers, samples: Samples, *, as_json: bool) -> Reply:
    """An answer that was cut off is chosen only where there is no whole one."""
    whole = [reply for reply in answers.replies if reply.finish_reason not in ("length", "deadline")]
    eligible = whole or answers.replies
    same = [_meaning(reply.text, as_json=as_json) for reply in eligible]
    votes = Counter(same) if samples.choose == "vote" else Counter[Hashable]()
    place = max(range(len(eligible)), key=lambda index: (votes[same[index]], _likelihood(eligible[index])))
    best = eligible[place]
    agreeing = [reply for reply, one in zip(eligible, same, strict=True) if one == same[place]]
    return replace(
        best,
        usage=_total([reply.usage for reply in answers.replies if reply.usage is not None]),
        timings=None,
        seconds=max(reply.seconds for reply in answers.replies),
        notes=(*best.notes, *_notes(answers, samples, len(agreeing))),
        extra={"samples": _details(answers, samples, agreeing)},
    )


def _likelihood(reply: Reply) -> float:
    return -inf if reply.mean_logprob is None else reply.mean_logprob


def _meaning(text: str, *, as_json: bool) -> Hashable:
    """What answers are compared by: the value of JSON, else the words without regard to case and white space."""
    if as_json:
        try:
            return _value(json.loads(text))
        except (ValueError, RecursionError):
            pass
    return " ".join(text.split()).casefold()


def _value(value: object) -> Hashable:
    """JSON values that are equal here mean the same: 1 and 1.0, but not true, which Python takes for 1 as well."""
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, list):
        return ("array", *map(_value, cast("list[object]", value)))
    if isinstance(value, dict):
        members = cast("dict[str, object]", value)
        return ("object", frozenset((name, _value(member)) for name, member in members.items()))
    return ("plain", cast("Hashable", value))


def _notes(answers: Answers, samples: Samples, agree: int) -> tuple[str, ...]:
    how = f"{agree} of {samples.count} agree" if samples.choose == "vote" else f"likeliest of {samples.count} samples"
    if not answers.lost:
        return (how,)
    late = sum(isinstance(error, DeadlineError) for error in answers.lost)
    invalid = len(answers.lost) - late
    reasons = [f"{late} not in time"] * bool(late) + [f"{invalid} not as the schema asks"] * bool(invalid)
    return (how, f"{len(answers.lost)} of {samples.count} samples gave no answer: {', '.join(reasons)}")


def _details(answers: Answers, samples: Samples, agreeing: Sequence[Reply]) -> dict[str, object]:
    """For programs. The confidence is the share of all that were asked for, so one that is missing disagrees."""
    details: dict[str, object] = {"asked": samples.count, "choose": samples.choose}
    if samples.choose == "vote":
        details |= {"agree": len(agreeing), "confidence": round(len(agreeing) / samples.count, 4)}
    details["answers"] = [
        {
            "text": reply.text,
            "finish_reason": reply.finish_reason,
            "mean_logprob": None if reply.mean_logprob is None else round(reply.mean_logprob, 4),
            "agrees": any(reply is one for one in agreeing),
        }
        for reply in answers.replies
    ]
    return details


def _total(usages: Sequence[WireUsage]) -> WireUsage | None:
    """The prompt counted once, and what one of them had to compute of it."""
    if not usages:
        return None
    prompt, completion = usages[0].prompt_tokens, sum(usage.completion_tokens for usage in usages)
    cached = min(usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0 for usage in usages)
    return WireUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
    )
