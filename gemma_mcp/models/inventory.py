"""What is known of the models on this machine without loading any: from their files' headers, read once each."""

from dataclasses import dataclass
from pathlib import Path

from gemma_mcp.errors import GemmaError
from gemma_mcp.models.gemma import has_fim_markers, read_model
from gemma_mcp.models.lookup import find_model, known_models, looks_like_path
from gemma_mcp.places import Places
from gemma_mcp.settings import Settings
from gemma_mcp.types import ModelSpec

__all__ = ["Inventory", "KnownModel"]

Stamp = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class KnownModel:
    """A model that can be asked for. `context_length` is what the model was trained for, in tokens, 0 if it does not
    say; `problem` says why it cannot be loaded, and then the rest is empty.
    """

    name: str
    format: str = ""
    size_bytes: int = 0
    images: bool = False
    fim: bool = False
    context_length: int = 0
    notice: str = ""
    problem: str = ""


class Inventory:
    """The models by name. Blocks; a header takes up to 0.2 s when its file is new or has changed, else next to none."""

    def __init__(self, settings: Settings, places: Places) -> None:
        self._settings = settings
        self._places = places
        self._known: dict[str, tuple[ModelSpec, Stamp, KnownModel]] = {}

    def names(self) -> list[str]:
        """The names that can be asked for, the usual one among them; no file is opened."""
        default = self._settings.model.default
        names = known_models(self._settings, self._places)
        return names if default in names or Path(default).stem in names else [default, *names]

    def knows(self, name: str) -> bool:
        """Whether a model can be asked for by that name; a path is believed without a look at it."""
        return looks_like_path(name) or name.lower() in map(str.lower, self.names())

    def models(self) -> list[KnownModel]:
        """All of them. What is wrong with one is said in its `problem`."""
        return [self.model(name) for name in self.names()]

    def model(self, name: str) -> KnownModel:
        """One of them, by a name or a path."""
        spec, stamp, known = self._known.get(name, (None, (), None))
        if spec is not None and known is not None and stamp == _stamp(spec):
            return known
        try:
            spec = find_model(name, self._settings, self._places)
            known = _describe(spec)
        except GemmaError as error:
            return KnownModel(name, problem=str(error))
        except OSError as error:
            return KnownModel(name, problem=f"Its files cannot be read: {error.strerror or error}.")
        self._known[name] = spec, _stamp(spec), known
        return known


def _describe(spec: ModelSpec) -> KnownModel:
    if not spec.path:
        return KnownModel(spec.name, spec.format, notice=spec.notice)
    path = Path(spec.path)
    header = read_model(path)
    return KnownModel(
        name=spec.name,
        format=spec.format,
        size_bytes=sum(Path(file).stat().st_size for file in (spec.path, spec.projector) if file),
        images=spec.projector is not None,
        fim=has_fim_markers(path, header),
        context_length=int(header.number(f"{header.architecture}.context_length") or 0),
        notice=spec.notice,
    )


def _stamp(spec: ModelSpec) -> Stamp:
    """Changes with the files, and with what lies beside them; empty for a model that has none, or has lost them."""
    files = [Path(file) for file in (spec.path, spec.projector) if file]
    try:
        stats = [path.stat() for path in (*files, *(path.parent for path in files[:1]))]
    except OSError:
        return ()
    return tuple((status.st_mtime_ns, status.st_size) for status in stats)
