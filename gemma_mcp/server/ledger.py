"""The honest line: what each call spared its client, and what it cost, counted after the answer has gone out.

Counting never delays an answer, loads no model and starts no engine: it asks the engine that has just answered for
tokens of texts, in the background, one call after the other. What cannot be counted is said to be unknown.
"""

import hashlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import PurePath
from typing import Protocol

import anyio
import anyio.to_thread

from gemma_mcp.errors import RemoteError
from gemma_mcp.server.savings import Figures, SavingsError, SavingsStore
from gemma_mcp.state import EngineStatus
from gemma_mcp.wire import TokenCounts

__all__ = ["Counters", "Ledger", "Outcome"]

COUNT_SECONDS = 30.0
"""After which an engine that does not answer leaves a call unknown."""

END_SECONDS = 0.2
"""How long the end of a server waits for what is being counted; clients give it half a second in all."""

MOST_WAITING = 1000
MOST_WAITING_CHARACTERS = 32_000_000
"""Calls and texts that wait to be counted; what comes on top of them stays unknown."""

MOST_REMEMBERED = 100_000
"""Texts of a session that are known by their digest, 16 bytes each."""


UNKNOWN = Figures(calls=1, unknown=1)
"""A call that could not be counted."""

logger = logging.getLogger(__name__)


class Counters(Protocol):
    """What counting needs of the pool of engines."""

    async def running(self) -> EngineStatus | None:
        """The engine that is running; never starts one."""
        ...

    async def count_tokens(self, model: str, texts: Sequence[str]) -> TokenCounts:
        """How many tokens each of the texts has for the model."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What one call brought: `shown`, the texts of its result, and `read`, the texts of files that went to the model.

    `model` is the name by which it can be asked, `loaded` the one under which the engine holds it; both are empty for
    a call that failed. Without a reply nothing was spared, so a call that failed has no `read`.
    """

    shown: tuple[str, ...]
    read: tuple[str, ...] = ()
    model: str = ""
    loaded: str = ""

    @property
    def characters(self) -> int:
        """Of all its texts."""
        return sum(map(len, (*self.shown, *self.read)))


class Ledger:
    """Counts the calls of one server. `schemas`: the texts by which its tools are described to a client."""

    def __init__(
        self, engines: Counters, default_model: str, schemas: Sequence[str], store: SavingsStore | None
    ) -> None:
        self._engines = engines
        self._default_model = default_model
        self._schemas = tuple(schemas)
        self._store = store
        self._waiting: deque[Outcome] = deque()
        self._waiting_characters = 0
        self._changed = anyio.Event()
        self._seen: set[bytes] = set()
        self._unsaved = Figures()
        self._saving = False
        self.session = Figures()
        """Of this server."""
        self.problem: SavingsError | None = None
        """Why the figures of this server are not part of the total yet."""

    def note(self, outcome: Outcome) -> None:
        """Take down what a call brought. Returns at once; it is counted later."""
        characters = self._waiting_characters + outcome.characters
        if len(self._waiting) >= MOST_WAITING or (self._waiting and characters > MOST_WAITING_CHARACTERS):
            self._book(UNKNOWN)
            return
        self._waiting.append(outcome)
        self._waiting_characters = characters
        self._change()

    @asynccontextmanager
    async def counting(self) -> AsyncGenerator[None]:
        """As long as the context is entered, calls are counted; leaving it waits for them a moment."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run)
            try:
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    await self.settled(END_SECONDS)
                tasks.cancel_scope.cancel()
        for _ in self._waiting:
            self._book(UNKNOWN)
        with anyio.move_on_after(END_SECONDS, shield=True):
            await self._save()

    async def settled(self, seconds: float) -> None:
        """Wait until everything that was noted is counted, or until the seconds are over."""
        with anyio.move_on_after(seconds):
            while self._waiting or self._saving:
                await self._changed.wait()

    async def total(self) -> Figures:
        """Of all servers of this user, this one included. Raises SavingsError."""
        saved = await anyio.to_thread.run_sync(self._store.total) if self._store else Figures()
        return saved + self._unsaved

    async def _run(self) -> None:
        """The first one in the line stays there until it is counted."""
        while True:
            while not self._waiting:
                await self._changed.wait()
            outcome = self._waiting[0]
            figures = await self._figures(outcome)
            self._waiting.popleft()
            self._waiting_characters -= outcome.characters
            self._book(figures)
            await self._save()
            self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _figures(self, outcome: Outcome) -> Figures:
        """Whatever goes wrong here must not take the server along."""
        with anyio.move_on_after(COUNT_SECONDS):
            try:
                model = await self._counting_model(outcome)
                return await self._counted(model, outcome) if model else UNKNOWN
            except Exception as error:
                logger.debug("A call was not counted: %s", error)
        return UNKNOWN

    async def _counting_model(self, outcome: Outcome) -> str:
        """The model that answered, if it still is in memory; for a call that failed any that is, the usual one first.

        Between this look and the count it could be unloaded, and the count would load it again. Nobody unloads a model
        that was used a moment ago but to make room for another one.
        """
        status = await self._engines.running()
        loaded = [model.model for model in status.models if model.loading is None] if status else []
        if outcome.model:
            return outcome.model if outcome.loaded in loaded else ""
        if {self._default_model, PurePath(self._default_model).stem} & set(loaded):
            return self._default_model
        return loaded[0] if loaded else ""

    async def _counted(self, model: str, outcome: Outcome) -> Figures:
        unseen = {digest: text for text in outcome.read if (digest := _digest(text)) not in self._seen}
        first = not self.session.sessions
        schemas = self._schemas if first else ()
        texts = (*unseen.values(), *outcome.shown, *schemas)
        counts = (await self._engines.count_tokens(model, texts)).counts
        if len(counts) != len(texts):
            raise RemoteError("The engine counted other texts than it was asked to.")
        if len(self._seen) < MOST_REMEMBERED:
            self._seen.update(unseen)
        after_files, after_results = len(unseen), len(unseen) + len(outcome.shown)
        return Figures(
            sessions=1 if first else 0,
            calls=1,
            file_tokens=sum(counts[:after_files]),
            result_tokens=sum(counts[after_files:after_results]),
            schema_tokens=sum(counts[after_results:]),
        )

    def _book(self, figures: Figures) -> None:
        self.session += figures
        self._unsaved += figures

    async def _save(self) -> None:
        """What cannot be saved now is saved together with the next call."""
        if self._store is None or self._unsaved == Figures():
            return
        unsaved, self._unsaved = self._unsaved, Figures()
        self._saving = True
        try:
            await anyio.to_thread.run_sync(self._store.add, unsaved, date.today().isoformat(), abandon_on_cancel=True)
            self.problem = None
        except SavingsError as error:
            self._unsaved += unsaved
            self.problem = error
        finally:
            self._saving = False


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
