"""From files to a running executor."""

from collections.abc import Callable
from contextlib import ExitStack

import llama_cpp

from gemma_mcp.engine.backend import LoadOptions, ModelSpec
from gemma_mcp.errors import LoadFailedError
from gemma_mcp.hardware import measure
from gemma_mcp.types import ModelInfo
from gemma_mcp_llamacpp.devices import Device, choose
from gemma_mcp_llamacpp.executor import LlamaCppExecutor
from gemma_mcp_llamacpp.log import native_log
from gemma_mcp_llamacpp.mapping import release_pages
from gemma_mcp_llamacpp.media import Projector
from gemma_mcp_llamacpp.native import DRAFT_TOKENS, Context, Model
from gemma_mcp_llamacpp.threads import Threads
from gemma_mcp_llamacpp.vocabulary import Vocabulary

__all__ = ["load"]

_ARCHITECTURES = ("gemma", "gemma2", "gemma3", "gemma3n", "gemma4")
"""The generating Gemmas that llama.cpp knows."""

_BUILDS = {"0.3.36": "b11312"}
"""The llama.cpp build inside a llama-cpp-python release, which does not say it itself."""

_MODEL_SHARE = 0.9
"""Share of the progress that reading the weights takes; projector and cache are the rest."""


def load(spec: ModelSpec, options: LoadOptions, progress: Callable[[float], None]) -> LlamaCppExecutor:
    """Load a model. Whatever was loaded is freed again when a later part fails."""
    native_log()
    llama_cpp.llama_backend_init()
    threads = options.threads or measure().physical_cores
    device = choose(spec.name, options.device, threads)
    with ExitStack() as undo:
        model = Model(
            spec.name, spec.path, device, _gpu_layers(options, device), lambda share: progress(share * _MODEL_SHARE)
        )
        undo.callback(model.close)
        release_pages(spec.path)
        _check_architecture(spec.name, model)
        projector = _projector(spec, options, model, device, threads)
        if projector is not None:
            undo.callback(projector.close)
        executor = _executor(spec, options, model, projector, device, threads)
        undo.pop_all()
    progress(1.0)
    return executor


def _gpu_layers(options: LoadOptions, device: Device) -> int:
    return 0 if device.address is None else options.gpu_layers


def _check_architecture(name: str, model: Model) -> None:
    architecture = model.metadata("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise LoadFailedError(name, f"its architecture {architecture!r} is not a Gemma that generates text")


def _projector(spec: ModelSpec, options: LoadOptions, model: Model, device: Device, threads: int) -> Projector | None:
    if spec.projector is None:
        return None
    gpu = device.address is not None
    return Projector(
        spec.name, spec.projector, model, threads=threads, flash_attention=options.flash_attention, gpu=gpu
    )


def _executor(
    spec: ModelSpec, options: LoadOptions, model: Model, projector: Projector | None, device: Device, threads: int
) -> LlamaCppExecutor:
    length = min(options.context_length, llama_cpp.llama_model_n_ctx_train(model.handle))
    context = Context(
        spec.name,
        model,
        options,
        cells=length * options.slots,
        step_tokens=_step_tokens(options, projector),
        threads=threads,
        gpu=device.address is not None,
    )
    vocabulary = Vocabulary(llama_cpp.llama_model_get_vocab(model.handle))
    info = _info(model, vocabulary, context, device, context_length=length, images=projector is not None)
    adapt = not options.threads and device.address is None
    return LlamaCppExecutor(info, model, vocabulary, projector, context, Threads(threads, adapt=adapt))


def _step_tokens(options: LoadOptions, projector: Projector | None) -> int:
    return options.step_tokens if projector is None else max(options.step_tokens, projector.most_tokens())


def _info(
    model: Model, vocabulary: Vocabulary, context: Context, device: Device, *, context_length: int, images: bool
) -> ModelInfo:
    version = llama_cpp.__version__
    build = _BUILDS.get(version) or llama_cpp.llama_version().decode()
    return ModelInfo(
        architecture=model.metadata("general.architecture"),
        description=model.description,
        runtime=f"llama.cpp {build} (llama-cpp-python {version})",
        device=str(device),
        vocab_size=vocabulary.size,
        vocabulary=vocabulary.digest,
        context_length=context_length,
        slots=context.slots,
        step_tokens=context.step_tokens,
        window=llama_cpp.llama_model_n_swa(model.handle),
        size_bytes=llama_cpp.llama_model_size(model.handle),
        chat_template=model.chat_template,
        bos=vocabulary.bos_text,
        eos=vocabulary.eos_text,
        fim=vocabulary.fim,
        images=images,
        forks=True,
        draft_tokens=DRAFT_TOKENS,
    )
