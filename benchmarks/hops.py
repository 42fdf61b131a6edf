"""What the hops cost: a cold start, and each call and token through server and engine beside the worker alone.

Three ways to the same worker process and the same tokens: stepping it by hand, through the engine's HTTP, and through
the server's stdio. All with a warm prefix cache and at temperature 0. Run it on an idle machine:

    python -m benchmarks.hops [--rounds 15] [--models echo,starter]
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from gemma_mcp.chat.messages import Message
from gemma_mcp.chat.template import ChatTemplate
from gemma_mcp.client.pool import EnginePool
from gemma_mcp.engine.backend import SlotOptions, Step, TokenPiece, TokenRow, Trim
from gemma_mcp.engine.host import WorkerHost, start_worker
from gemma_mcp.engine.registry import Registry
from gemma_mcp.engine.selector import choose
from gemma_mcp.models.lookup import find_model
from gemma_mcp.testing.engines import EngineHome
from gemma_mcp.types import Sampling, Text
from gemma_mcp.wire import ChatCompletionRequest, ChatMessage

TOKENS = 64
PROMPTS = {
    "echo": f"!repeat {TOKENS} x",
    "starter": "Repeat: one two three four five six seven eight nine ten one two three four five six seven eight",
}
LONGEST_LINE = 1 << 24

Call = Callable[[int], Awaitable[int]]
"""Ask for so many tokens; returns how many came."""


class Server:
    """A server process and a client that speaks to it with as little of its own as can be."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._number = 0

    @classmethod
    @asynccontextmanager
    async def running(cls, home: EngineHome) -> AsyncGenerator["Server"]:
        """Started, and ended with its input."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gemma_mcp",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=home.environ,
            cwd=home.folder,
            limit=LONGEST_LINE,
        )
        try:
            yield cls(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()

    async def request(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._number += 1
        message = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        while True:
            answer = json.loads(await self._process.stdout.readline())
            if answer.get("id") == self._number:
                return answer["result"]

    async def initialize(self) -> None:
        """The handshake, of which the last message has no answer."""
        about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "hops", "version": "1"}}
        await self.request("initialize", **about)
        assert self._process.stdin is not None
        self._process.stdin.write(b'{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')

    async def generate(self, model: str, tokens: int) -> int:
        """Call the tool; how many tokens came."""
        arguments = {"prompt": PROMPTS[model], "model": model, "max_tokens": tokens, "temperature": 0}
        result = await self.request("tools/call", name="generate_text", arguments=arguments)
        assert not result.get("isError"), result
        (details,) = (part for part in result["_meta"].values() if isinstance(part, dict) and "usage" in part)
        return details["usage"]["completion_tokens"]


async def through_engine(pool: EnginePool, model: str, tokens: int) -> int:
    """The engine's HTTP alone."""
    message = ChatMessage(role="user", content=PROMPTS[model])
    request = ChatCompletionRequest(model=model, messages=(message,), max_tokens=tokens, temperature=0.0)
    count = 0
    async with pool.chat(request) as chunks:
        async for chunk in chunks:
            count = chunk.usage.completion_tokens if chunk.usage else count
    return count


@asynccontextmanager
async def worker(home: EngineHome, model: str) -> AsyncGenerator[Call]:
    """The worker alone, with the prompt in its cache, stepped token by token as the scheduler does it."""
    spec = find_model(model, home.settings, home.places)
    choice = choose(spec, home.settings, Registry.installed())[0]
    async with start_worker(choice.backend, spec, choice.options, log=home.places.logs / "direct.log") as host:
        segments = ChatTemplate.of(host.info).render((Message("user", (Text(PROMPTS[model]),)),))
        pieces = await host.encode(tuple(segments))
        ids = tuple(token for piece in pieces if isinstance(piece, TokenPiece) for token in piece.ids)
        await host.step(Step(rows=(TokenRow(0, 0, ids, False),)))

        async def call(tokens: int) -> int:
            await host.encode(tuple(segments))
            return await _stepped(host, ids, tokens)

        yield call


async def _stepped(host: WorkerHost, ids: Sequence[int], tokens: int) -> int:
    await host.open(0, SlotOptions(sampling=Sampling(temperature=0.0)))
    position, token = len(ids) - 1, ids[-1]
    trims: tuple[Trim, ...] = (Trim(0, position),)
    for count in range(1, tokens + 1):
        result = await host.step(Step(trims=trims, rows=(TokenRow(0, position, (token,), True),)))
        sampled = result.outputs[0].tokens[0]
        if sampled.end:
            return count
        position, token, trims = position + 1, sampled.token, ()
    return tokens


async def measure(call: Call, rounds: int) -> tuple[float, float]:
    """Medians: milliseconds of a call for one token, microseconds of each token more."""
    await call(TOKENS)
    ones, rates = list[float](), list[float]()
    for _ in range(rounds):
        one, _count = await _timed(call, 1)
        many, count = await _timed(call, TOKENS)
        ones.append(one)
        rates.append((many - one) / max(1, count - 1))
    return statistics.median(ones) * 1e3, statistics.median(rates) * 1e6


async def _timed(call: Call, tokens: int) -> tuple[float, int]:
    started = time.perf_counter()
    count = await call(tokens)
    return time.perf_counter() - started, count


async def print_hops(home: EngineHome, model: str, rounds: int) -> None:
    """Three rows, and what each hop adds."""
    async with worker(home, model) as direct:
        figures = {"worker": await measure(direct, rounds)}
    async with home.pool() as pool:
        figures["engine"] = await measure(lambda tokens: through_engine(pool, model, tokens), rounds)
    async with Server.running(home) as server:
        await server.initialize()
        figures["server"] = await measure(lambda tokens: server.generate(model, tokens), rounds)
    base = figures["worker"]
    for way, (call, token) in figures.items():
        added = f"{call - base[0]:+.2f} | {token - base[1]:+.0f}" if way != "worker" else "- | -"
        print(f"| {model} | {way} | {call:.2f} | {token:.0f} | {added} |", flush=True)


async def print_cold_start(home: EngineHome, model: str, rounds: int) -> None:
    """From the start of the server's process, with no engine running."""
    replies, texts = list[float](), list[float]()
    for _ in range(rounds):
        started = time.perf_counter()
        async with Server.running(home) as server:
            await server.initialize()
            replies.append(time.perf_counter() - started)
            await server.generate(model, 1)
            texts.append(time.perf_counter() - started)
        await anyio.to_thread.run_sync(home.end)
    print(f"| {model} | {statistics.median(replies):.2f} | {statistics.median(texts):.2f} |", flush=True)


async def main(rounds: int, models: Sequence[str]) -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = EngineHome(Path(folder))
        print("| model | cold start: first reply, s | first text, engine and model started, s |\n|---|---|---|")
        for model in models:
            await print_cold_start(home, model, max(1, rounds // 3))
        print("\n| model | way | ms a call | us a token | added ms a call | added us a token |")
        print("|---|---|---|---|---|---|")
        try:
            for model in models:
                await print_hops(home, model, rounds)
        finally:
            await anyio.to_thread.run_sync(home.end)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", default="echo,starter", help="separated by commas")
    given = parser.parse_args()
    anyio.run(main, given.rounds, given.models.split(","))
