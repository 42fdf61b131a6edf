"""How often the starter is right on questions that training never saw, asked through a real engine, greedily.

Every job of `training.evaluate` is asked COUNT held-out items, a few at a time, in an engine of its own. Prints a table
in Markdown and fails when a family misses its bar:

    python -m benchmarks.starter_accuracy [--count 200]
"""

import argparse
import base64
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import anyio.to_thread
from PIL import Image

from gemma_mcp.client.pool import EnginePool
from gemma_mcp.places import Places
from gemma_mcp.settings_sources import load_settings
from gemma_mcp.wire import ChatCompletion, ChatCompletionRequest, CompletionRequest
from training.evaluate import IMAGE_JOBS, Item, items

MODEL = "starter"
SEED = 2026
AT_ONCE = 4
MOST_TOKENS = 200

FAMILIES: dict[str, tuple[float, tuple[str, ...]]] = {
    "facts": (0.95, ("fact", "times", "french", "hello", "unknown")),
    "word tasks": (
        0.95,
        ("repeat", "upper", "lower", "reverse", "spell", "count", "count_file", "add", "minus", "sentiment", "summary"),
    ),
    "memory over turns": (0.95, ("memory", "memory_name", "lookup")),
    "extraction to JSON": (0.90, ("extract",)),
    "tiny code, executed": (0.90, ("fim", "completion", "function")),
    "images": (0.90, tuple(IMAGE_JOBS)),
}
"""The share that has to be right, over all items of the family, and its jobs."""


async def said(stream: AbstractAsyncContextManager[AsyncIterator[ChatCompletion]]) -> str:
    """The text of a streamed reply."""
    async with stream as chunks:
        choices = [choice async for chunk in chunks for choice in chunk.choices]
    return "".join((choice.delta.content if choice.delta else None) or choice.text or "" for choice in choices)


def image_part(image: Image.Image) -> dict[str, object]:
    """A PNG as OpenAI's image part."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"type": "image_url", "image_url": {"url": uri}}


async def ask(pool: EnginePool, item: Item) -> str:
    """The starter's reply to one item."""
    common = {"model": MODEL, "temperature": 0.0, "max_tokens": MOST_TOKENS}
    if item.form == "chat":
        messages = item.content([image_part(image) for image in item.images])
        body = json.dumps({**common, "messages": messages})
        return await said(pool.chat(ChatCompletionRequest.model_validate_json(body)))
    suffix = {"suffix": item.suffix} if item.form == "infill" else {}
    body = json.dumps({**common, "prompt": item.prefix, **suffix})
    return await said(pool.complete(CompletionRequest.model_validate_json(body)))


async def right(pool: EnginePool, questions: Sequence[Item], wrong: list[object]) -> int:
    """How many of the items the starter gets right; the others are noted in `wrong`."""
    limiter = anyio.CapacityLimiter(AT_ONCE)
    good = 0

    async def one(item: Item) -> None:
        nonlocal good
        async with limiter:
            reply = await ask(pool, item)
            if await anyio.to_thread.run_sync(item.check, reply):
                good += 1
            else:
                wrong.append([item.job, item.messages or [item.prefix, item.suffix], item.reference, reply])

    async with anyio.create_task_group() as tasks:
        for item in questions:
            tasks.start_soon(one, item)
    return good


async def measure(pool: EnginePool, count: int, wrong: list[object]) -> bool:
    """Print the table; whether every family reached its bar."""
    print("| family | job | right | share |\n|---|---|---|---|")
    reached = True
    for family, (bar, jobs) in FAMILIES.items():
        total = 0
        for job in jobs:
            good = await right(pool, list(items(job, count, SEED)), wrong)
            total += good
            print(f"| {family} | {job} | {good}/{count} | {good / count:.3f} |", flush=True)
        share = total / (count * len(jobs))
        reached &= share >= bar
        print(f"| **{family}** | all, bar {bar:.2f} | {total}/{count * len(jobs)} | **{share:.3f}** |", flush=True)
    return reached


async def main(count: int, wrong: list[object]) -> bool:
    """Measure in an engine of its own; whether every family reached its bar."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        environ = {**os.environ, "GEMMA_MCP_HOME": home}
        async with EnginePool(load_settings(environ).settings, Places.find(environ), environ) as pool:
            try:
                reached = await measure(pool, count, wrong)
            finally:
                await pool.stop()
    print(f"{time.monotonic() - started:.0f} s")
    return reached


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="items of each job")
    parser.add_argument("--failures", type=Path, help="write wrong replies to this JSON file")
    given = parser.parse_args()
    mistakes: list[object] = []
    passed = anyio.run(main, given.count, mistakes)
    if given.failures is not None:
        given.failures.write_text(json.dumps(mistakes, indent=1, ensure_ascii=False), encoding="utf-8")
    sys.exit(0 if passed else 1)
