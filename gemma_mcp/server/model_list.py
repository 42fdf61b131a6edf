"""`gemma://models`: the models that a call may name. Reading it starts nothing and loads nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from gemma_mcp.errors import GemmaError
from gemma_mcp.models.inventory import Inventory, KnownModel
from gemma_mcp.server.caller import Engines
from gemma_mcp.server.documents import cell, table
from gemma_mcp.settings import Settings
from gemma_mcp.state import LoadedStatus

__all__ = ["ModelList"]

HEAD = ("model", "state", "format", "size", "context", "images", "fill in the middle")


@dataclass(frozen=True)
class ModelList:
    """Writes the document."""

    engines: Engines
    settings: Settings
    inventory: Inventory

    async def document(self) -> str:
        """The models of this moment, as Markdown."""
        known = await anyio.to_thread.run_sync(self.inventory.models)
        loaded = await self._loaded()
        rows = [self._row(model, loaded.pop(model.name, None)) for model in known]
        rows += [_row_of_loaded(model) for model in loaded.values()]
        lines = ["# Models", "", *table(HEAD, rows), "", *self._about()]
        return "\n".join([*lines, *_remarks(known)]) + "\n"

    async def _loaded(self) -> dict[str, LoadedStatus]:
        """What the engine holds; nothing if it cannot be asked."""
        try:
            engine = await self.engines.running()
        except GemmaError:
            return {}
        return {model.model: model for model in engine.models} if engine else {}

    def _row(self, model: KnownModel, loaded: LoadedStatus | None) -> Sequence[str]:
        if model.problem:
            return (self._name(model.name), "cannot be loaded", "", "", "", "", "")
        ready = loaded if loaded is not None and loaded.loading is None else None
        limit = self.settings.llamacpp.wanted_context
        context = ready.context_length if ready else min(model.context_length or limit, limit)
        images, fim = (ready.images, ready.fim) if ready else (model.images, model.fim)
        name, size = self._name(model.name), _size(model.size_bytes)
        return (name, _state(loaded), model.format, size, f"{context:,}", _yes(images), _yes(fim))

    def _name(self, name: str) -> str:
        usual = self.settings.model.default
        return f"{name} (usual)" if name in (usual, Path(usual).stem) else name

    def _about(self) -> Iterator[str]:
        yield (
            "Pass a name as `model` of any tool; without one the usual model answers. Context: tokens of prompt and "
            "reply together that one call may use."
        )


def _row_of_loaded(model: LoadedStatus) -> Sequence[str]:
    """One that was asked for by its path."""
    context = f"{model.context_length:,}" if model.context_length else ""
    return (model.model, _state(model), "", _size(model.size_bytes), context, _yes(model.images), _yes(model.fim))


def _state(loaded: LoadedStatus | None) -> str:
    if loaded is None:
        return "on disk"
    return f"in memory, {loaded.device}" if loaded.loading is None else f"loading, {loaded.loading:.0%}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB" if count else ""


def _remarks(known: Sequence[KnownModel]) -> Iterator[str]:
    """What is to be said of single models, and what is wrong with them."""
    remarks = [
        f"- {model.name}: {cell(model.problem or model.notice)}" for model in known if model.problem or model.notice
    ]
    if remarks:
        yield ""
        yield from remarks
