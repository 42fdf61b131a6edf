"""`gemma://status`: what runs, with which settings, what it spared, and what is wrong. Reading it starts nothing."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from gemma_mcp import __version__
from gemma_mcp.errors import GemmaError
from gemma_mcp.models.inventory import Inventory, KnownModel
from gemma_mcp.server.caller import Engines
from gemma_mcp.server.documents import cell, count, table
from gemma_mcp.server.ledger import Ledger
from gemma_mcp.server.savings import Figures
from gemma_mcp.settings import Settings
from gemma_mcp.settings_sources import Origin
from gemma_mcp.state import EngineStatus, LoadedStatus
from gemma_mcp.wire import WIRE_VERSION

__all__ = ["Status"]

SETTLE_SECONDS = 0.5
"""How long a reader waits for calls that are just being counted."""

ALWAYS_SHOWN = (
    "model.default",
    "backend.name",
    "backend.device",
    "llamacpp.context",
    "llamacpp.slots",
    "server.root",
    "server.max_seconds",
    "server.max_tokens",
)
"""The settings that decide what a call can do; others are shown when somebody has changed them."""

ESTIMATE = (
    "An estimate for your own tokens: they are counted with the tokenizer of the model that answered. Text of files "
    "that went to the model counts once per session; results, tool descriptions and instructions are taken off; "
    "images and arguments count neither way."
)


@dataclass(frozen=True)
class Problem:
    """What is wrong, and what to do about it."""

    what: str
    remedy: str = ""


@dataclass(frozen=True)
class Status:
    """Writes the document."""

    engines: Engines
    settings: Settings
    origins: Mapping[str, Origin]
    root: Path | None
    inventory: Inventory
    ledger: Ledger

    async def document(self) -> str:
        """The status of this moment, as Markdown."""
        problems: list[Problem] = []
        engine = await self._engine(problems)
        usual = await anyio.to_thread.run_sync(self.inventory.model, self.settings.model.default)
        await self.ledger.settled(SETTLE_SECONDS)
        savings = await self._savings(problems)
        problems += [*_of_engine(engine), *_of_model(usual)]
        parts = (_engine_lines(engine), self._setting_lines(), savings, _problem_lines(problems))
        return "\n".join([f"# gemma-mcp {__version__}", *(line for part in parts for line in ("", *part))]) + "\n"

    async def _engine(self, problems: list[Problem]) -> EngineStatus | None:
        try:
            return await self.engines.running()
        except GemmaError as error:
            problems.append(Problem(error.message, error.hint))
            return None

    async def _savings(self, problems: list[Problem]) -> list[str]:
        if self.ledger.problem is not None:
            problems.append(Problem(self.ledger.problem.message, self.ledger.problem.hint))
        try:
            total = await self.ledger.total()
        except GemmaError as error:
            if self.ledger.problem is None:
                problems.append(Problem(error.message, error.hint))
            total = None
        return list(_savings_lines(self.ledger.session, total))

    def _setting_lines(self) -> Iterator[str]:
        yield "## Settings"
        yield ""
        rows = [
            (key, self._shown(key, value), str(origin) if origin else "default")
            for key, value, origin in self._shown_settings()
        ]
        yield from table(("setting", "value", "from"), rows)

    def _shown_settings(self) -> Iterator[tuple[str, object, Origin | None]]:
        values = self.settings.model_dump()
        for section, keys in values.items():
            for name, value in keys.items():
                key = f"{section}.{name}"
                origin = self.origins.get(key)
                changed = origin is not None and origin.kind != "default"
                if changed or key in ALWAYS_SHOWN:
                    yield key, value, origin if changed else None

    def _shown(self, key: str, value: object) -> str:
        text = json.dumps(value, ensure_ascii=False)
        return f"{text} ({self.root or 'no project folder'})" if key == "server.root" else text


def _engine_lines(engine: EngineStatus | None) -> Iterator[str]:
    yield "## Engine"
    yield ""
    if engine is None:
        yield "Not running; the first call of a tool starts it."
        return
    minutes = max(0.0, time.time() - engine.started) / 60
    running, waiting = (sum(getattr(model, name) for model in engine.models) for name in ("running", "waiting"))
    yield (
        f"Running for {minutes:.0f} min (pid {engine.pid}, version {engine.version}): {count(running, 'request')} "
        f"running, {waiting:,} waiting."
    )
    yield ""
    if not engine.models:
        yield "No model is in memory; the next call loads one."
        return
    rows = [_model_row(model) for model in engine.models]
    yield from table(("model in memory", "state", "device", "runtime", "running", "waiting"), rows)


def _model_row(model: LoadedStatus) -> Sequence[str]:
    state = "ready" if model.loading is None else f"loading, {model.loading:.0%}"
    return model.model, state, model.device, model.runtime, f"{model.running:,}", f"{model.waiting:,}"


def _savings_lines(session: Figures, total: Figures | None) -> Iterator[str]:
    yield "## Tokens kept out of the client's context"
    yield ""
    columns = [session] if total is None else [session, total]
    head = ("", "this session", "all sessions")[: len(columns) + 1]
    rows = [
        ("text of files, read here", *(f"{one.file_tokens:,}" for one in columns)),
        ("results", *(f"{-one.result_tokens:,}" for one in columns)),
        ("tool descriptions and instructions", *(f"{-one.schema_tokens:,}" for one in columns)),
        ("**saved**", *(f"**{one.saved:,}**" for one in columns)),
        ("calls", *(f"{one.calls:,}" for one in columns)),
        ("of these not counted", *(f"{one.unknown:,}" for one in columns)),
    ]
    yield from table(head, rows)
    yield ""
    yield ESTIMATE


def _of_engine(engine: EngineStatus | None) -> Iterator[Problem]:
    if engine is None:
        return
    stop = "Run `gemma-mcp engine stop`; the next call starts a new one."
    if engine.wire_version != WIRE_VERSION:
        yield Problem(f"The engine is of another release ({engine.version}).", stop)
    elif not engine.same_settings:
        yield Problem("The engine was started with other settings or by another Python than this server's.", stop)


def _of_model(usual: KnownModel) -> Iterator[Problem]:
    if usual.problem:
        yield Problem(usual.problem, "Set model.default to a model that is here; gemma://models lists them.")
    elif usual.notice:
        yield Problem(usual.notice)


def _problem_lines(problems: Sequence[Problem]) -> Iterator[str]:
    yield "## Problems"
    yield ""
    if not problems:
        yield "None."
    for problem in problems:
        yield f"- {cell(f'{problem.what} {problem.remedy}')}"
