"""Which files a model's name stands for, without reading their headers at every request."""

from pathlib import Path

import anyio
import anyio.to_thread

from gemma_mcp.engine.backend import ModelSpec
from gemma_mcp.errors import GemmaError
from gemma_mcp.models.lookup import find_model, known_models
from gemma_mcp.places import Places
from gemma_mcp.settings import Settings
from gemma_mcp.wire import ModelCard

__all__ = ["Specs"]

Stamp = tuple[int, int, int]


class Specs:
    """Looks models up. What it found counts until the file or its folder changes."""

    def __init__(self, settings: Settings, places: Places) -> None:
        self._settings = settings
        self._places = places
        self._found: dict[str, tuple[Stamp | None, ModelSpec]] = {}

    async def find(self, name: str) -> ModelSpec:
        """The model's files. Raises UnknownModelError, InputRefusedError, LoadFailedError."""
        return await anyio.to_thread.run_sync(self._find, name, abandon_on_cancel=True)  # a dead drive answers never

    async def cards(self) -> list[ModelCard]:
        """All models that can be asked for. The notice of a broken one says what is wrong with it."""
        names = await anyio.to_thread.run_sync(known_models, self._settings, self._places, abandon_on_cancel=True)
        return [await self._card(name) for name in names]

    def _find(self, name: str) -> ModelSpec:
        stamp, spec = self._found.get(name, (None, None))
        if spec is None or stamp is None or stamp != _stamp(spec):
            spec = find_model(name, self._settings, self._places)
            self._found[name] = _stamp(spec), spec
        return spec

    async def _card(self, name: str) -> ModelCard:
        try:
            spec = await self.find(name)
        except GemmaError as error:
            return ModelCard(model=name, notice=str(error))
        return ModelCard(model=name, images=spec.projector is not None, notice=spec.notice)


def _stamp(spec: ModelSpec) -> Stamp | None:
    """Changes with the file, and with what lies beside it."""
    path = Path(spec.path)
    try:
        file, folder = path.stat(), path.parent.stat()
    except OSError:
        return None
    return file.st_mtime_ns, file.st_size, folder.st_mtime_ns
