"""llama.cpp as a backend of gemma-mcp. Nothing native is imported before a method that needs it is called."""

import importlib.util
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from gemma_mcp.engine.backend import Executor, LoadOptions, ModelSpec
from gemma_mcp.errors import BackendMissingError, LoadFailedError
from gemma_mcp.types import DeviceMemory

__all__ = ["LlamaCppBackend"]

VERSION = "0.3.36"
"""The release whose C structures this code was written against; another one may lay them out differently."""

_GPU_LIBRARIES = ("cuda", "metal", "vulkan", "hip", "sycl", "musa", "opencl", "webgpu", "cann")
"""Words in the names of llama.cpp's libraries for GPUs."""

_INSTALL = "pip install 'gemma-mcp[llamacpp]'"


class LlamaCppBackend:
    """A `Backend` on llama-cpp-python."""

    name = "llamacpp"
    formats = ("gguf",)

    def missing(self) -> str | None:
        """None when the right release of llama-cpp-python is installed, else the command that installs it."""
        if importlib.util.find_spec("llama_cpp") is None:
            return _INSTALL
        try:
            return None if metadata.version("llama-cpp-python").partition("+")[0] == VERSION else _INSTALL
        except metadata.PackageNotFoundError:
            return _INSTALL

    def devices(self) -> tuple[str, ...]:
        """GPUs by llama.cpp's names, then "cpu"."""
        self._require()
        from gemma_mcp_llamacpp.devices import CPU, gpus

        return (*(device.name for device in gpus()), CPU)

    def may_have_gpu(self) -> bool:
        """Whether a library for GPUs came with llama.cpp."""
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.origin is None:
            return False
        names = [path.name.lower() for path in (Path(spec.origin).parent / "lib").glob("*ggml*")]
        return any(kind in name for kind in _GPU_LIBRARIES for name in names)

    def gpu_memory(self) -> tuple[DeviceMemory, ...]:
        """The memory of the GPUs, in llama.cpp's order."""
        self._require()
        from gemma_mcp_llamacpp.devices import gpus, memory_of

        return tuple(map(memory_of, gpus()))

    def load(self, spec: ModelSpec, options: LoadOptions, progress: Callable[[float], None]) -> Executor:
        """Load a GGUF file, with its projector if it has one."""
        self._require()
        os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # an abort would start a debugger and print pages
        try:
            from gemma_mcp_llamacpp.loading import load
        except (OSError, RuntimeError, ImportError) as error:
            raise LoadFailedError(spec.name, f"llama.cpp itself does not load ({error})", _INSTALL) from error
        return load(spec, options, progress)

    def _require(self) -> None:
        command = self.missing()
        if command is not None:
            raise BackendMissingError(self.name, command)
