"""The life of a request around the scheduler: deadlines while a model loads, and what a checked reply holds back."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from gemma_mcp.chat.messages import Message
from gemma_mcp.engine.backend import LoadOptions, ModelSpec
from gemma_mcp.engine.generation import Call, chat_prompt, generate
from gemma_mcp.engine.intake import Wanted
from gemma_mcp.engine.metrics import Metrics
from gemma_mcp.engine.model import LoadedModel, open_model
from gemma_mcp.engine.replies import Shape
from gemma_mcp.engine.residency import Residency
from gemma_mcp.engine.writers import WholeWriter
from gemma_mcp.errors import DeadlineError
from gemma_mcp.types import Text
from gemma_mcp.wire import ChatCompletionRequest, ChatMessage

ECHO = ModelSpec(name="echo", format="echo", path="")


def call(text: str, deadline: float | None) -> Call:
    options = ChatCompletionRequest(
        model="echo", messages=(ChatMessage(role="user", content=text),), deadline_seconds=deadline
    )
    render = chat_prompt((Message("user", (Text(text),)),))
    return Call(options, render, Wanted(), None, None, time.monotonic())


async def test_time_that_is_up_while_loading_is_said_and_the_next_call_finds_the_model(tmp_path: Path) -> None:
    gate = anyio.Event()

    @asynccontextmanager
    async def slowly(spec: ModelSpec, on_progress: Callable[[float], None]) -> AsyncGenerator[LoadedModel]:
        on_progress(0.4)
        await gate.wait()
        log = tmp_path / "worker.log"
        async with open_model("echo", spec, LoadOptions(), queue_limit=8, prefill_chunk=64, log=log) as model:
            yield model

    whole = WholeWriter(Shape("chat", "echo", stream=False))
    with anyio.fail_after(60):
        async with Residency(slowly, keep_alive=3600, max_models=1) as memory:
            metrics = Metrics(memory.residents)
            with pytest.raises(DeadlineError, match=r"being loaded \(40% done\).*try again"):
                await generate(call("hello", 0.05), ECHO, memory, metrics, whole)
            assert whole.reply is None
            gate.set()
            await generate(call("hello", None), ECHO, memory, metrics, whole)
    assert whole.reply is not None
    assert whole.reply.choices[0].message is not None
    assert whole.reply.choices[0].message.content == "hello"
