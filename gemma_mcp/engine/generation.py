"""The life of one request in the engine: wait for the model, render the prompt, stream its events into a reply."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass

import anyio
import anyio.to_thread

from gemma_mcp.chat.fim import fim_segments
from gemma_mcp.chat.messages import Message
from gemma_mcp.engine.backend import ModelSpec
from gemma_mcp.engine.choices import follow, requests_of
from gemma_mcp.engine.intake import Wanted, sampling_of, stops_of
from gemma_mcp.engine.metrics import Metrics
from gemma_mcp.engine.replies import Reply
from gemma_mcp.engine.residency import OnLoading, Residency, Resident
from gemma_mcp.errors import DeadlineError, RequestError, UnsupportedError
from gemma_mcp.types import Event, Finished, GenerationRequest, Media, Segment, Text
from gemma_mcp.wire import CompletionRequest, GenerationOptions

__all__ = ["Call", "Render", "chat_prompt", "completion_prompt", "generate"]

Render = Callable[[Resident], Sequence[Segment]]
"""Renders the prompt for the model that is there. Runs in a thread: templates are programs."""

LEAST_SECONDS = 0.001


@dataclass(frozen=True)
class Call:
    """A request that was understood. `received`: time.monotonic() at its arrival, from which its deadline counts."""

    options: GenerationOptions
    prompt: Render
    wanted: Wanted
    max_tokens: int | None
    logprobs: int | None
    received: float

    def seconds_left(self) -> float | None:
        """Until the deadline; None without one."""
        if self.options.deadline_seconds is None:
            return None
        return max(LEAST_SECONDS, self.received + self.options.deadline_seconds - time.monotonic())


def chat_prompt(messages: tuple[Message, ...]) -> Render:
    """A conversation. The prompt raises UnsupportedError for images that the model cannot see."""

    def render(resident: Resident) -> Sequence[Segment]:
        if not resident.model.info.images and any(isinstance(part, Media) for one in messages for part in one.parts):
            raise UnsupportedError(
                f"The model {resident.spec.name!r} does not see images.", "Use one that has a projector beside it."
            )
        return resident.template.render([one.for_vocabulary(resident.vocabulary) for one in messages])

    return render


def completion_prompt(request: CompletionRequest) -> Render:
    """Plain text, or with a suffix what stands between. Raises RequestError when there is nothing to go on."""
    suffix = request.suffix
    if suffix is None and not request.prompt:
        raise RequestError("The prompt is empty.", "Give a text that is to be continued.")

    def render(resident: Resident) -> Sequence[Segment]:
        if suffix is None:
            return (Text(request.prompt),)
        fim = resident.model.info.fim
        if fim is None:
            raise UnsupportedError(
                f"The model {resident.spec.name!r} was not trained to fill in the middle.",
                "Leave `suffix` out, or use a model such as CodeGemma.",
            )
        return fim_segments(fim, request.prompt, suffix)

    return render


async def generate(call: Call, spec: ModelSpec, residency: Residency, metrics: Metrics, reply: Reply) -> None:
    """Tell `reply` all that becomes of the call. Raises what loading, queueing and generating raise."""
    async with AsyncExitStack() as stack:
        resident = await _leased(stack, call, residency, spec, reply.loading)
        request = await _request(call, resident)
        asked = requests_of(request, call.options.n or 1)
        streams = [await stack.enter_async_context(resident.model.stream(one)) for one in asked]
        card = resident.card

        async def tell(event: Event, index: int) -> None:
            if isinstance(event, Finished):
                metrics.finished(card.model, event)
            await reply.event(event, index)

        await reply.started(card)
        await follow(streams, tell)


async def _leased(
    stack: AsyncExitStack, call: Call, residency: Residency, spec: ModelSpec, on_loading: OnLoading
) -> Resident:
    lease: AbstractAsyncContextManager[Resident] = residency.lease(spec, on_loading)
    with anyio.move_on_after(call.seconds_left()):
        return await stack.enter_async_context(lease)
    done = residency.loading().get(spec.name)
    if done is None:
        raise DeadlineError(
            f"Time was up before the model {spec.name!r} could take the request.",
            "Allow more seconds, or try again when less is going on.",
        )
    raise DeadlineError(
        f"Time was up while the model {spec.name!r} was being loaded ({done:.0%} done).",
        "It goes on loading: try again in a moment.",
    )


async def _request(call: Call, resident: Resident) -> GenerationRequest:
    options = call.options
    sampling = sampling_of(options, resident.spec.sampling, resident.model.info)
    segments = await anyio.to_thread.run_sync(call.prompt, resident)
    return GenerationRequest(
        segments=tuple(segments),
        sampling=sampling,
        grammar=call.wanted.grammar,
        max_tokens=call.max_tokens,
        stop=stops_of(options),
        deadline_seconds=call.seconds_left(),
        logprobs=call.logprobs,
        reuse_prefix=options.cache_prompt,
        priority=options.priority,
    )
