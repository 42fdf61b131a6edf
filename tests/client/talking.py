"""How the tests of the pool talk to an engine."""

from collections.abc import Callable

import anyio
import psutil

from gemma_mcp.client.pool import EnginePool
from gemma_mcp.state import EngineStatus
from gemma_mcp.testing.engines import EngineHome
from gemma_mcp.wire import ChatCompletion, ChatCompletionRequest, ChatMessage


def chat(text: str, **options: object) -> ChatCompletionRequest:
    message = ChatMessage(role="user", content=text)
    return ChatCompletionRequest(model="echo", messages=(message,)).model_copy(update=options)


def text_of(chunk: ChatCompletion) -> str:
    delta = chunk.choices[0].delta if chunk.choices else None
    return (delta.content if delta else None) or ""


async def say(pool: EnginePool, text: str, **options: object) -> str:
    async with pool.chat(chat(text, **options)) as chunks:
        return "".join([text_of(chunk) async for chunk in chunks])


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not condition():
            await anyio.sleep(0.02)


async def killed_at(home: EngineHome, pool: EnginePool, text: str, when: Callable[[ChatCompletion], bool]) -> None:
    """Kill the engine at such chunks."""
    async with pool.chat(chat(text)) as stream:
        async for chunk in stream:
            if when(chunk):
                kill(home.state().pid)


def kill(pid: int) -> None:
    process = psutil.Process(pid)
    process.kill()
    process.wait(30)


async def status_of(pool: EnginePool) -> EngineStatus:
    status = await pool.running()
    assert status is not None
    return status


async def busy(pool: EnginePool) -> tuple[int, int]:
    """How many requests run and wait for the first model."""
    models = (await status_of(pool)).models
    return (models[0].running, models[0].waiting) if models else (0, 0)
