"""Names to files: which models there are on this machine, and what belongs to each."""

import difflib
import re
from importlib import resources
from itertools import islice
from pathlib import Path

from gemma_mcp.errors import InputRefusedError, LoadFailedError, UnknownModelError
from gemma_mcp.models.gemma import projector_fits, read_model, read_projector, sampling_of
from gemma_mcp.models.gguf import GgufHeader
from gemma_mcp.places import Places
from gemma_mcp.settings import Settings
from gemma_mcp.types import ModelSpec, Sampling

__all__ = ["ECHO", "STARTER", "STARTER_NOTICE", "find_model", "known_models", "looks_like_path", "starter_model"]

STARTER = "starter"
ECHO = "echo"
"""The name of the backend for tests, which needs no files. It is known, and not listed."""

STARTER_NOTICE = (
    "This is the built-in starter model, a toy: for real answers download a Gemma GGUF file "
    "(for example from ggml-org or google on Hugging Face) and set GEMMA_MCP_MODEL_DEFAULT to its path."
)
SPLIT_PART = re.compile(r"-\d{5}-of-\d{5}$")
MAX_FILES = 10_000
"""Files looked at in one folder; more are a sign that it is no folder of models."""


def find_model(name: str, settings: Settings, places: Places) -> ModelSpec:
    """The files behind a name: "starter", a path (absolute or from "~"), or the stem of a file in a models folder.

    Raises UnknownModelError for a name that is not here, InputRefusedError for a path that cannot be meant, and
    LoadFailedError for a file that is no whole Gemma model. Reads headers only, some 0.2 s for the largest vocabulary.
    """
    if name == ECHO:
        return ModelSpec(name=ECHO, format="echo", path="")
    if name == STARTER:
        return starter_model(Path(str(resources.files("gemma_mcp") / "starter")))
    if looks_like_path(name):
        return _model_at(_checked_path(name))
    files = _files(settings, places)
    path = files.get(name) or {stem.lower(): path for stem, path in files.items()}.get(name.lower())
    if path is None:
        raise UnknownModelError(name[:200], _closest_first(name, known_models(settings, places)))
    return _model_at(path)


def known_models(settings: Settings, places: Places) -> list[str]:
    """The names that can be asked for: the starter, then those of the files in the models folders."""
    names = [stem for stem in _files(settings, places) if not SPLIT_PART.search(stem)]
    return [STARTER, *sorted(names, key=str.lower)]


def starter_model(folder: Path) -> ModelSpec:
    """The built-in toy, whose files lie in `folder`. It was trained for greedy answers.

    Raises LoadFailedError when the files are missing from the installation.
    """
    model, projector = folder / "starter.gguf", folder / "mmproj.gguf"
    for path in (model, projector):
        if not path.is_file():
            raise LoadFailedError(STARTER, f"{path} is missing from the installation", "Install gemma-mcp again.")
    return ModelSpec(
        name=STARTER,
        format="gguf",
        path=str(model),
        projector=str(projector),
        notice=STARTER_NOTICE,
        sampling=Sampling(temperature=0.0),
    )


def looks_like_path(name: str) -> bool:
    """Whether a name of a model is meant as a path."""
    return name.startswith("~") or "/" in name or "\\" in name or name.lower().endswith(".gguf")


def _checked_path(name: str) -> Path:
    """An absolute path. A relative one means another file in every process."""
    if "\0" in name:
        raise InputRefusedError(repr(name[:200]), "a path holds no NUL character")
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise InputRefusedError(name[:200], "there is no such home folder", "Give an absolute path.") from error
    if not path.is_absolute():
        raise InputRefusedError(
            name[:200],
            "it is a relative path, which the engine would look for in a folder of its own",
            "Give an absolute path, or one that begins with ~/.",
        )
    return path


def _model_at(path: Path) -> ModelSpec:
    if path.is_dir():
        raise InputRefusedError(str(path), "it is a folder", "Name the GGUF file in it.")
    header = read_model(path)
    projector = _projector_beside(path, header)
    return ModelSpec(
        name=path.stem,
        format="gguf",
        path=str(path),
        projector=str(projector) if projector else None,
        sampling=sampling_of(header),
    )


def _projector_beside(path: Path, model: GgufHeader) -> Path | None:
    """The one projector in the model's folder that fits it; with several that fit, the choice is not made."""
    fitting = [
        beside for beside in _gguf_files(path.parent) if "mmproj" in beside.name.lower() and _fits(beside, model)
    ]
    return fitting[0] if len(fitting) == 1 else None


def _fits(path: Path, model: GgufHeader) -> bool:
    try:
        return projector_fits(read_projector(path), model)
    except LoadFailedError:
        return False


def _files(settings: Settings, places: Places) -> dict[str, Path]:
    """Model files by stem, from the configured folders first; of two with one name the first counts."""
    found: dict[str, Path] = {}
    for folder in (*map(_expanded, settings.model.directories), places.models):
        for path in _gguf_files(folder) if folder else ():
            if "mmproj" not in path.name.lower():
                found.setdefault(path.stem, path)
    default = _expanded(settings.model.default)
    if default and looks_like_path(settings.model.default):
        found.setdefault(default.stem, default)
    return found


def _expanded(text: str) -> Path | None:
    """The path with "~" replaced, None when there is no such home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return None


def _gguf_files(folder: Path) -> list[Path]:
    """The GGUF files of a folder, in order; none when it cannot be read."""
    try:
        return sorted(path for path in islice(folder.iterdir(), MAX_FILES) if path.suffix.lower() == ".gguf")
    except OSError:
        return []


def _closest_first(name: str, known: list[str]) -> list[str]:
    close = difflib.get_close_matches(name[:200], known, n=3, cutoff=0.5)
    return [*close, *(other for other in known if other not in close)]
