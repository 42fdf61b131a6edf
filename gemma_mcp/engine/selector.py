"""Which backend loads a model, and how: from its format, the settings and what is installed."""

from collections.abc import Iterator
from dataclasses import dataclass

from gemma_mcp.engine.backend import LoadOptions, ModelSpec
from gemma_mcp.engine.registry import Registry
from gemma_mcp.errors import BackendError, GemmaError, UnsupportedError
from gemma_mcp.models.fit import Fit
from gemma_mcp.models.wish import wish_of
from gemma_mcp.settings import LlamaCppSettings, Settings

__all__ = ["Choice", "choose"]


@dataclass(frozen=True)
class Choice:
    """A way to load a model, and why it stands where it stands."""

    backend: str
    options: LoadOptions
    reason: str


def choose(spec: ModelSpec, settings: Settings, registry: Registry, fit: Fit | None = None) -> list[Choice]:
    """The ways to load it, best first, never none. `fit`: the terms under which it fits into memory.

    Raises ConfigError for a backend that does not exist, UnsupportedError when none reads the format,
    BackendMissingError when those that do lack their runtimes.
    """
    options = _options(settings.llamacpp, settings.backend.device, fit)
    refusals: list[GemmaError] = []
    choices = [
        Choice(name, options, f"{reason}; {fit}" if fit else reason)
        for name, reason in _candidates(spec, settings.backend.name, registry, refusals)
    ]
    if choices:
        return choices
    if refusals:
        raise refusals[0]
    raise UnsupportedError(
        f"No installed backend reads the format {spec.format!r} of the model {spec.name!r}.",
        f"Installed backends: {', '.join(registry.names()) or 'none'}.",
    )


def _candidates(
    spec: ModelSpec, wanted: str, registry: Registry, refusals: list[GemmaError]
) -> Iterator[tuple[str, str]]:
    """Names and reasons. A backend that is broken or lacks its runtime is noted in `refusals` and passed over."""
    for name in registry.names() if wanted == "auto" else [wanted]:
        try:
            if spec.format in registry.backend(name).formats:
                registry.ready(name)
                yield name, f"reads {spec.format!r}" if wanted == "auto" else "named in the settings"
            elif wanted != "auto":
                refusals.append(_cannot_read(spec, name, registry.backend(name).formats))
        except BackendError as error:
            refusals.append(error)


def _cannot_read(spec: ModelSpec, name: str, formats: tuple[str, ...]) -> UnsupportedError:
    return UnsupportedError(
        f"The backend {name!r} reads {', '.join(formats)}, but the model {spec.name!r} is {spec.format!r}.",
        'Set backend.name to "auto".',
    )


def _options(settings: LlamaCppSettings, device: str, fit: Fit | None) -> LoadOptions:
    terms = fit.terms if fit else wish_of(settings).terms
    return LoadOptions(
        context_length=terms.context,
        slots=terms.slots,
        step_tokens=terms.step_tokens,
        threads=settings.threads,
        device=device,
        gpu_layers=terms.gpu_layers,
        flash_attention=terms.flash_attention,
        kv_type=terms.kv_type,
    )
