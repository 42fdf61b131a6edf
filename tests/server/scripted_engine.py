"""A scripted engine at the pool's interface, and what tests ask of a result."""

import tomllib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from mcp import Client
from mcp.types import CallToolResult, TextContent

from gemma_mcp.settings import Settings
from gemma_mcp.wire import ChatCompletion, ChatCompletionRequest, CompletionRequest, GenerationOptions

DEFAULTS = Path(__file__).parents[2] / "config" / "defaults.toml"

CARD = {"model": "scripted", "runtime": "script", "device": "CPU", "context_length": 8192}
USAGE = {
    "prompt_tokens": 1200,
    "completion_tokens": 7,
    "total_tokens": 1207,
    "prompt_tokens_details": {"cached_tokens": 1000},
}

Step = ChatCompletion | Exception | anyio.Event


def chunk(**fields: Any) -> ChatCompletion:
    """A chunk as the wire brings it."""
    return ChatCompletion.model_validate(fields)


def said(text: str) -> ChatCompletion:
    """A chunk of text of a chat reply."""
    return chunk(choices=[{"delta": {"content": text}}])


def filled(text: str) -> ChatCompletion:
    """A chunk of text of a plain completion."""
    return chunk(choices=[{"text": text}])


def finished(reason: str = "stop", **card: Any) -> ChatCompletion:
    """The last chunk."""
    return chunk(
        choices=[{"finish_reason": reason}],
        usage=USAGE,
        timings={"prompt_n": 200, "predicted_n": 7},
        gemma=CARD | card,
    )


class ScriptedEngines:
    """Plays one script per request, in order; the last one again and again. Notes requests and left streams."""

    def __init__(self) -> None:
        self.scripts: list[Sequence[Step]] = [[said("fine"), finished()]]
        self.requests: list[GenerationOptions] = []
        self.running = 0
        self.entered = anyio.Event()
        self.left = anyio.Event()

    def play(self, *scripts: Sequence[Step]) -> None:
        """What the next requests will see."""
        self.scripts = list(scripts)

    def chat(self, request: ChatCompletionRequest) -> AbstractAsyncContextManager[AsyncIterator[ChatCompletion]]:
        return self._stream(request)

    def complete(self, request: CompletionRequest) -> AbstractAsyncContextManager[AsyncIterator[ChatCompletion]]:
        return self._stream(request)

    @asynccontextmanager
    async def _stream(self, request: GenerationOptions) -> AsyncGenerator[AsyncIterator[ChatCompletion]]:
        self.requests.append(request)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        self.running += 1
        self.entered.set()
        try:
            yield _played(script)
        finally:
            self.running -= 1
            self.left.set()

    @property
    def prompt(self) -> str:
        """The text of the last user turn that was asked."""
        request = self.requests[-1]
        assert isinstance(request, ChatCompletionRequest)
        content = request.messages[-1].content
        assert isinstance(content, str)
        return content


async def _played(script: Sequence[Step]) -> AsyncIterator[ChatCompletion]:
    for step in script:
        if isinstance(step, anyio.Event):
            await step.wait()
        elif isinstance(step, Exception):
            raise step
        else:
            yield step


def texts(result: CallToolResult) -> list[str]:
    """The text blocks of a result."""
    return [block.text for block in result.content if isinstance(block, TextContent)]


def error_of(result: CallToolResult) -> str:
    """The text of a result that is an error, which never shows how the program works inside."""
    assert result.is_error
    (text,) = texts(result)
    assert "Traceback" not in text
    assert "pydantic" not in text.lower()
    assert "\n" not in text
    return text


Connect = Callable[..., AbstractAsyncContextManager[Client]]


def settings(**changes: Any) -> Settings:
    """The defaults, with changes to the section `server`; `sessions` changes the section of that name."""
    with DEFAULTS.open("rb") as file:
        table = tomllib.load(file)
    table["sessions"] |= changes.pop("sessions", {})
    table["server"] |= changes
    for section in table.values():
        section |= {key: tuple(value) for key, value in section.items() if isinstance(value, list)}
    return Settings.model_validate(table)
