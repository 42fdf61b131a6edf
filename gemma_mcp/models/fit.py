"""Under which terms a model is loaded, so that it fits into the memory that is free."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gemma_mcp.models.memory import Encoder, Estimate, KvType, Need, Terms, estimate
from gemma_mcp.models.shape import Shape

__all__ = [
    "FLOOR_TOKENS",
    "Fit",
    "Free",
    "Model",
    "Wish",
    "best_fit",
    "describe_need",
    "in_units",
    "least_fit",
    "nearest_fit",
]

FLOOR_TOKENS = 2048
"""A context is never made smaller than this by itself: with less, a file or two and the reply do not fit."""

STEP_TOKENS = 1024
"""A context becomes smaller by this, or by an eighth where that is more."""

ALL_LAYERS = -1


@dataclass(frozen=True)
class Model:
    """What is known of a model's files before they are loaded."""

    name: str
    shape: Shape
    encoder: Encoder | None = None


@dataclass(frozen=True)
class Free:
    """Bytes that a model may take: of the machine, and of the GPU if there is one. `shared`: they are the same."""

    host_bytes: int
    gpu_bytes: int | None = None
    shared: bool = False

    def holds(self, need: Estimate) -> bool:
        """Whether it is enough."""
        host, gpu = need.host.total_bytes, need.gpu.total_bytes
        if gpu > (self.gpu_bytes or 0):
            return False
        return host + (gpu if self.shared else 0) <= self.host_bytes


@dataclass(frozen=True)
class Wish:
    """How a model is best loaded, and what of that may be given up: what a user has set may not.

    Given up is, in this order: slots, the exactness of the KV cache (`any_kv`), layers on the GPU, context.
    """

    terms: Terms
    any_slots: bool = False
    any_kv: bool = False
    any_layers: bool = False
    any_context: bool = False


@dataclass(frozen=True)
class Fit:
    """The terms that were chosen, what they need, and what was given up for it in a few words each."""

    terms: Terms
    estimate: Estimate
    given_up: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Of both memories."""
        return self.estimate.host.total_bytes + self.estimate.gpu.total_bytes

    def __str__(self) -> str:
        """For a status line."""
        terms = self.terms
        said = f"{terms.slots} x {terms.context:,} tokens, needs {in_units(self.total_bytes)}"
        return f"{said} (to save memory: {', '.join(self.given_up)})" if self.given_up else said


def best_fit(model: Model, wish: Wish, free: Free | None) -> Fit | None:
    """The first terms that fit, in the order of sacrifice; None when none do. Without `free` nothing is given up."""
    wish = _for_model(model, wish)
    for most in _candidates(model, wish, free):
        terms = _with_slots(model, wish, free, most)
        if terms is not None:
            return Fit(terms, _estimate(model, terms, free), tuple(_given_up(wish.terms, terms)))
    return None


def least_fit(model: Model, wish: Wish, free: Free) -> Fit:
    """The terms that need least of what may be given up, whether they fit or not."""
    wish = _for_model(model, wish)
    *_, last = _candidates(model, wish, free)
    terms = replace(last, slots=1) if wish.any_slots else last
    return Fit(terms, _estimate(model, terms, free), tuple(_given_up(wish.terms, terms)))


def nearest_fit(model: Model, wish: Wish, free: Free) -> Fit | None:
    """What would fit if everything could be given up."""
    return best_fit(model, replace(wish, any_slots=True, any_kv=True, any_layers=True, any_context=True), free)


def _for_model(model: Model, wish: Wish) -> Wish:
    """A context that the model does not have is not given up."""
    length = model.shape.context_length or wish.terms.context
    return replace(wish, terms=replace(wish.terms, context=min(wish.terms.context, length)))


def _estimate(model: Model, terms: Terms, free: Free | None) -> Estimate:
    without_gpu = free is not None and free.gpu_bytes is None
    return estimate(model.shape, replace(terms, gpu_layers=0) if without_gpu else terms, model.encoder)


def _candidates(model: Model, wish: Wish, free: Free | None) -> Iterator[Terms]:
    best = wish.terms
    any_layers = wish.any_layers and free is not None and free.gpu_bytes is not None
    for context in _contexts(best.context) if wish.any_context else (best.context,):
        for layers in _layers(model.shape, best.gpu_layers) if any_layers else (best.gpu_layers,):
            for kv_type in _kv_types(best) if wish.any_kv else (best.kv_type,):
                yield replace(best, context=context, gpu_layers=layers, kv_type=kv_type)


def _with_slots(model: Model, wish: Wish, free: Free | None, most: Terms) -> Terms | None:
    """The terms with as many slots as fit; None when not even the fewest do."""
    if free is None:
        return most
    fewest = replace(most, slots=1 if wish.any_slots else most.slots)
    if not free.holds(_estimate(model, fewest, free)):  # the usual case, by far, where memory is short
        return None
    more = (replace(most, slots=count) for count in range(most.slots, fewest.slots, -1))
    return next((terms for terms in more if free.holds(_estimate(model, terms, free))), fewest)


def _contexts(context: int) -> Iterator[int]:
    yield context
    while context > FLOOR_TOKENS:
        smaller = (context - max(STEP_TOKENS, context // 8)) // STEP_TOKENS * STEP_TOKENS
        context = max(FLOOR_TOKENS, smaller)
        yield context


def _kv_types(terms: Terms) -> tuple[KvType, ...]:
    """q8_0 needs flash attention."""
    return (terms.kv_type, "q8_0") if terms.kv_type == "f16" and terms.flash_attention else (terms.kv_type,)


def _layers(shape: Shape, layers: int) -> Iterator[int]:
    most = len(shape.layers) + 1
    yield layers
    yield from range((most if layers < 0 else min(layers, most)) - 1, -1, -1)


def _given_up(wanted: Terms, got: Terms) -> Iterator[str]:
    if got.slots < wanted.slots:
        yield f"{got.slots} instead of {wanted.slots} slots"
    if got.kv_type != wanted.kv_type:
        yield f"KV cache in {got.kv_type}"
    if got.gpu_layers != wanted.gpu_layers:
        yield f"{got.gpu_layers} layers on the GPU"
    if got.context < wanted.context:
        yield f"{got.context:,} instead of {wanted.context:,} tokens"


def describe_need(need: Need) -> str:
    """The parts of a need."""
    parts = {
        "weights": need.weight_bytes,
        "KV cache": need.kv_bytes,
        "compute buffers": need.compute_bytes,
        "image encoder": need.encoder_bytes,
        "process": need.process_bytes,
    }
    return ", ".join(f"{name} {in_units(count)}" for name, count in parts.items() if count)


def in_units(count: float) -> str:
    """Bytes for a person to read; `gemma-mcp doctor` writes them in the same way."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
