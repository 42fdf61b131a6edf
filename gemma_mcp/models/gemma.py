"""Which GGUF files are Gemma models or their projectors, and what they say about sampling."""

import mmap
import struct
from pathlib import Path

import msgspec

from gemma_mcp.errors import LoadFailedError
from gemma_mcp.models.gguf import GgufHeader, read_header
from gemma_mcp.types import Sampling

__all__ = [
    "ARCHITECTURES",
    "has_fim_markers",
    "is_projector",
    "projector_fits",
    "read_model",
    "read_projector",
    "sampling_of",
]

ARCHITECTURES = ("gemma", "gemma2", "gemma3", "gemma3n", "gemma4")
"""What `general.architecture` may be; CodeGemma and MedGemma are among them."""

FIM_MARKERS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
"""Of the models trained for fill-in-the-middle: CodeGemma's model card."""

MAX_HEADER_BYTES = 64 << 20
"""Headers with a vocabulary of 262,144 have some 10 MB."""


def read_model(path: Path) -> GgufHeader:
    """The header of a Gemma text model. Raises LoadFailedError for anything else."""
    header = read_header(path)
    if is_projector(header):
        raise LoadFailedError(
            str(path), "it is a projector (mmproj), the part that sees images", "Name the model's own file instead."
        )
    parts = header.number("split.count") or 1
    if parts > 1:
        number = int(header.number("split.no") or 0) + 1
        raise LoadFailedError(
            str(path),
            f"it is part {number} of {int(parts)} of a split model",
            "Join the parts with llama.cpp's `llama-gguf-split --merge`, and name the result.",
        )
    if header.architecture not in ARCHITECTURES:
        raise LoadFailedError(
            str(path),
            f"its architecture is {header.architecture[:80]!r}, which is not a Gemma that generates text",
            f"Architectures that work: {', '.join(ARCHITECTURES)}.",
        )
    return header


def read_projector(path: Path) -> GgufHeader:
    """The header of a projector. Raises LoadFailedError for anything else."""
    header = read_header(path)
    if not is_projector(header):
        what = f"a {header.architecture[:80]!r} model" if header.architecture else "a file without an architecture"
        raise LoadFailedError(str(path), f"it is {what}, not a projector (mmproj)", "Name the mmproj file instead.")
    return header


def is_projector(header: GgufHeader) -> bool:
    """Whether the file holds an image (or audio) encoder that goes with a text model."""
    return header.architecture == "clip" or header.text("general.type") == "mmproj"


def projector_fits(projector: GgufHeader, model: GgufHeader) -> bool:
    """Whether what the projector makes of an image is as wide as the model's embeddings, and made for a Gemma."""
    kind = projector.text("clip.projector_type") or projector.text("clip.vision.projector_type")
    width = projector.number("clip.vision.projection_dim")
    return kind.startswith("gemma") and width in (None, model.number(f"{model.architecture}.embedding_length"))


def has_fim_markers(path: Path, header: GgufHeader) -> bool:
    """Whether the vocabulary holds the markers of fill-in-the-middle. It is searched as it lies there, not taken apart:
    each of its words stands behind its length.
    """
    size = min(header.size_bytes - sum(tensor.size_bytes for tensor in header.tensors), MAX_HEADER_BYTES)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        words = (struct.pack("<Q", len(marker)) + marker.encode() for marker in FIM_MARKERS)
        return all(data.find(word, 0, size) >= 0 for word in words)


def sampling_of(header: GgufHeader) -> Sampling:
    """The sampling that the file asks for in its `general.sampling.*` keys, the usual one of Gemma without them.

    A value out of bounds is passed over, not believed: the bounds are those of the wire's requests.
    """
    sampling = Sampling()
    for key, (field, low, high) in SAMPLING_KEYS.items():
        value = header.number(f"general.sampling.{key}")
        if value is None or not low <= value <= high:
            continue
        whole = isinstance(getattr(sampling, field), int)
        sampling = msgspec.structs.replace(sampling, **{field: int(value) if whole else float(value)})
    return sampling


SAMPLING_KEYS: dict[str, tuple[str, float, float]] = {
    "temp": ("temperature", 0, 100),
    "top_k": ("top_k", 0, 10_000_000),
    "top_p": ("top_p", 1e-6, 1),
    "min_p": ("min_p", 0, 1),
    "xtc_probability": ("xtc_probability", 0, 1),
    "xtc_threshold": ("xtc_threshold", 0, 1),
    "penalty_last_n": ("repeat_last_n", -1, 1_000_000),
    "penalty_repeat": ("repeat_penalty", 1e-6, 10),
    "mirostat": ("mirostat", 0, 2),
    "mirostat_tau": ("mirostat_tau", 0, 100),
    "mirostat_eta": ("mirostat_eta", 0, 100),
}
"""llama.cpp's key after `general.sampling.`: our name, least and greatest value."""
