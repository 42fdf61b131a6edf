"""What is asked for when a model is loaded: its files, what the settings want, and the refusal if that is too much."""

from pathlib import Path

from gemma_mcp.errors import ModelTooLargeError
from gemma_mcp.models.fit import Free, Model, Wish, describe_need, in_units, least_fit, nearest_fit
from gemma_mcp.models.gguf import read_header
from gemma_mcp.models.memory import Need, Terms, encoder_of
from gemma_mcp.models.shape import shape_of
from gemma_mcp.settings import LlamaCppSettings
from gemma_mcp.types import ModelSpec

__all__ = ["model_of", "too_large", "wish_of"]


def model_of(spec: ModelSpec) -> Model | None:
    """What the headers of its files say; None for a format whose memory is not known. Raises LoadFailedError."""
    if spec.format != "gguf":
        return None
    shape = shape_of(read_header(Path(spec.path)))
    if shape is None:
        return None
    return Model(spec.name, shape, encoder_of(read_header(Path(spec.projector))) if spec.projector else None)


def wish_of(settings: LlamaCppSettings) -> Wish:
    """What the settings ask for, and what they leave open."""
    terms = Terms(
        context=settings.wanted_context,
        slots=settings.wanted_slots,
        step_tokens=settings.step_tokens,
        kv_type="f16" if settings.kv_type == "auto" else settings.kv_type,
        gpu_layers=settings.gpu_layers,
        flash_attention=settings.flash_attention,
    )
    return Wish(
        terms,
        any_slots=not settings.slots,
        any_kv=settings.kv_type == "auto",
        any_layers=settings.gpu_layers < 0,
        any_context=not settings.context,
    )


def too_large(model: Model, wish: Wish, free: Free) -> ModelTooLargeError:
    """The refusal: what the least terms need that the settings allow, what there is, and what would fit."""
    need = least_fit(model, wish, free).estimate
    needs, has = _amount(need.host), f"{in_units(free.host_bytes)} can be had"
    if free.gpu_bytes is not None:
        needs = f"{needs}, and on the GPU {_amount(need.gpu)}"
        has = f"{has}, and {in_units(free.gpu_bytes)} on the GPU"
    return ModelTooLargeError(model.name, needs, has, _remedy(model, wish, free))


def _amount(need: Need) -> str:
    parts = describe_need(need)
    return f"{in_units(need.total_bytes)} ({parts})" if parts else "nothing"


def _remedy(model: Model, wish: Wish, free: Free) -> str:
    """The nearest fit as lines of the configuration."""
    nearest = nearest_fit(model, wish, free)
    if nearest is None:
        return "Choose a smaller model file or close other programs; engine.check_memory = false loads it all the same."
    lines = {
        "slots": (nearest.terms.slots, wish.terms.slots),
        "kv_type": (f'"{nearest.terms.kv_type}"', f'"{wish.terms.kv_type}"'),
        "gpu_layers": (nearest.terms.gpu_layers, wish.terms.gpu_layers),
        "context": (nearest.terms.context, wish.terms.context),
    }
    changed = [f"llamacpp.{key} = {new}" for key, (new, old) in lines.items() if new != old]
    return f"This fits: {', '.join(changed)} (needs {in_units(nearest.total_bytes)})."
