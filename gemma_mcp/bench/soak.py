"""Does memory grow? Requests of every kind for a while, and the resident memory of engine and worker over time."""

import base64
import dataclasses
import io
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import msgspec
from PIL import Image

from gemma_mcp.bench.exchange import Exchange
from gemma_mcp.bench.lineup import lineup as put_up
from gemma_mcp.bench.plan import Plan, Progress
from gemma_mcp.bench.prompts import Prompts
from gemma_mcp.bench.run import calibrated
from gemma_mcp.bench.scenario import ungrouped
from gemma_mcp.bench.targets import Target

__all__ = ["Sample", "Soaked", "run_soak"]

USERS = 4
SAMPLE_SECONDS = 1.0
WARM_SHARE = 0.3
"""Of the time; caches fill in it, and its memory is not counted."""
COMPARED_SHARE = 0.2
"""Of the samples after the warm-up: the first so many against the last so many."""

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}

Kind = Callable[["_Soak", random.Random], Awaitable[None]]


class Sample(msgspec.Struct, frozen=True):
    """Resident bytes at a moment; `seconds` since the start."""

    seconds: float
    requests: int
    engine_bytes: int
    worker_bytes: int


class Soaked(msgspec.Struct, frozen=True):
    """What came of it. `growth`: of engine and worker together after the warm-up, as a share."""

    requests: int
    kinds: dict[str, int]
    samples: tuple[Sample, ...]
    growth: float
    engine_growth: float
    worker_growth: float

    def lines(self) -> list[str]:
        """For a person."""
        last = self.samples[-1]
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items())
        return [
            f"{self.requests} requests in {last.seconds / 60:.1f} min: {kinds}",
            f"engine: {last.engine_bytes / 1e6:,.0f} MB resident, {self.engine_growth:+.1%} after the warm-up",
            f"worker: {last.worker_bytes / 1e6:,.0f} MB resident, {self.worker_growth:+.1%} after the warm-up",
            f"together: {self.growth:+.1%}",
        ]


@dataclass
class _Soak:
    target: Target
    prompts: Prompts
    images: bool
    until: float
    started: float
    counts: dict[str, int] = field(default_factory=dict[str, int])
    samples: list[Sample] = field(default_factory=list[Sample])

    @property
    def requests(self) -> int:
        return sum(self.counts.values())

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.until and self.requests > 0

    async def use(self, seed: int) -> None:
        """One user's requests, one after the other."""
        numbers = random.Random(f"{self.prompts.seed} {seed}")
        kinds = {name: kind for name, kind in KINDS.items() if self.images or name != "image"}
        while not self.over:
            name = numbers.choice(list(kinds))
            await kinds[name](self, numbers)
            self.counts[name] = self.counts.get(name, 0) + 1

    async def watch(self, progress: Progress) -> None:
        """Sample until the end."""
        assert self.target.home is not None
        whole = self.until - self.started
        while True:
            now = time.monotonic() - self.started
            memory = self.target.home.memory()
            self.samples.append(Sample(now, self.requests, memory.engine_bytes, memory.worker_bytes))
            text = f"{self.requests} requests, {memory.worker_bytes / 1e6:,.0f} MB in the worker"
            progress(min(1.0, now / whole), text)
            if self.over:
                return
            await anyio.sleep(min(SAMPLE_SECONDS, max(0.01, whole / 100)))


async def _short(soak: _Soak, numbers: random.Random) -> None:
    await _asked(soak.target.completion(_fresh(soak, numbers, 24), 16))


async def _long(soak: _Soak, numbers: random.Random) -> None:
    await _asked(soak.target.completion(_fresh(soak, numbers, numbers.randint(256, 1024)), 8))


async def _shared(soak: _Soak, numbers: random.Random) -> None:
    shared = soak.prompts.text(256, "soak", "shared", numbers.randint(0, 3))
    await _asked(soak.target.completion(shared + _fresh(soak, numbers, 16), 16))


async def _again(soak: _Soak, numbers: random.Random) -> None:
    await _asked(soak.target.completion(soak.prompts.text(96, "soak", "again", numbers.randint(0, 7)), 16))


async def _sampled(soak: _Soak, numbers: random.Random) -> None:
    options = {"temperature": 1.0, "top_k": 64, "top_p": 0.95, "repeat_penalty": 1.1, "logprobs": 3}
    await _asked(soak.target.completion(_fresh(soak, numbers, 32), 16, **options))


async def _stopping(soak: _Soak, numbers: random.Random) -> None:
    """Text that is compared with stop strings, none of which comes."""
    await _asked(soak.target.completion(_fresh(soak, numbers, 32), 16, stop=["\n\n\n", "<never>"]))


async def _chat(soak: _Soak, numbers: random.Random) -> None:
    said = [{"role": "user", "content": _fresh(soak, numbers, 48)}]
    for _ in range(2):
        await _asked(soak.target.chat(said, 12))
        said += [{"role": "assistant", "content": "so"}, {"role": "user", "content": _fresh(soak, numbers, 12)}]


async def _schema(soak: _Soak, numbers: random.Random) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA}}
    await _asked(soak.target.completion(_fresh(soak, numbers, 24), 48, response_format=wanted, seed=1))


async def _cancelled(soak: _Soak, numbers: random.Random) -> None:
    """The reader leaves in the middle of the reply."""
    exchange = soak.target.completion(_fresh(soak, numbers, 64), 256)
    exchange.strict = False
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exchange.run)
        await exchange.flowing.wait()
        tasks.cancel_scope.cancel()


async def _image(soak: _Soak, numbers: random.Random) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (numbers.randint(0, 7) * 32, 80, 160)).save(buffer, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "text", "text": _fresh(soak, numbers, 8)},
    ]
    await _asked(soak.target.chat([{"role": "user", "content": parts}], 8))


async def _asked(exchange: Exchange) -> None:
    """Sampled replies may end early."""
    exchange.strict = False
    await exchange.run()


def _fresh(soak: _Soak, numbers: random.Random, tokens: int) -> str:
    return soak.prompts.text(tokens, "soak", numbers.getrandbits(64))


KINDS: dict[str, Kind] = {
    "short": _short,
    "long": _long,
    "shared": _shared,
    "again": _again,
    "sampled": _sampled,
    "stop": _stopping,
    "chat": _chat,
    "schema": _schema,
    "cancelled": _cancelled,
    "image": _image,
}
"""Every kind of request; "image" for models that see."""


async def run_soak(plan: Plan, seconds: float, folder: Path, progress: Progress) -> Soaked:
    """Ask the first engine of the plan for so long. Raises the errors of `gemma_mcp.errors`."""
    spec, header = plan.spec(), plan.header()
    alone = dataclasses.replace(plan, engines=plan.engines[:1], peers=())
    async with put_up(alone.lineup(), folder) as targets:
        target = targets[0]
        prompts = await calibrated(header, target, plan.seed)
        now = time.monotonic()
        sees = spec is not None and spec.projector is not None
        soak = _Soak(target, prompts, sees, now + seconds, now)
        with ungrouped():
            async with anyio.create_task_group() as tasks:
                for number in range(USERS):
                    tasks.start_soon(soak.use, number)
                tasks.start_soon(soak.watch, progress)
    return _judged(soak)


def _judged(soak: _Soak) -> Soaked:
    warm = [one for one in soak.samples if one.seconds >= WARM_SHARE * soak.samples[-1].seconds]
    return Soaked(
        requests=soak.requests,
        kinds=dict(sorted(soak.counts.items())),
        samples=tuple(soak.samples),
        growth=_growth([one.engine_bytes + one.worker_bytes for one in warm]),
        engine_growth=_growth([one.engine_bytes for one in warm]),
        worker_growth=_growth([one.worker_bytes for one in warm]),
    )


def _growth(values: Sequence[int]) -> float:
    """Of the median of the last samples over that of the first."""
    count = max(1, round(len(values) * COMPARED_SHARE))
    first, last = statistics.median(values[:count]), statistics.median(values[-count:])
    return last / first - 1 if first else 0.0
