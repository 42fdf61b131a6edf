"""Which devices the installed llama.cpp can compute on."""

import ctypes
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp

from gemma_mcp.errors import LoadFailedError
from gemma_mcp.types import DeviceMemory

__all__ = ["Device", "choose", "gpus", "memory_of"]

CPU = "cpu"
_GPU, _INTEGRATED_GPU = _GPU_TYPES = (1, 2)
"""GGML_BACKEND_DEVICE_TYPE_GPU and _IGPU of ggml-backend.h."""


@dataclass(frozen=True)
class Device:
    """Something to compute on. `address` None: the CPU alone."""

    name: str
    description: str
    address: int | None = None

    def pointers(self) -> ctypes.Array[ctypes.c_void_p]:
        """The null-terminated list that llama.cpp wants; empty, it keeps everything on the CPU."""
        listed = [] if self.address is None else [self.address]
        return (ctypes.c_void_p * (len(listed) + 1))(*listed, None)

    def __str__(self) -> str:
        return f"{self.name} ({self.description})" if self.description else self.name


def gpus() -> list[Device]:
    """The GPUs, in llama.cpp's order."""
    ggml, base = _library("ggml"), _library("ggml-base")
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    get = ggml.ggml_backend_dev_get
    get.argtypes, get.restype = [ctypes.c_size_t], ctypes.c_void_p
    found: list[Device] = []
    for address in map(get, range(ggml.ggml_backend_dev_count())):
        if _call(base, "type", ctypes.c_int, address) in _GPU_TYPES:
            name, description = (_call(base, key, ctypes.c_char_p, address).decode() for key in ("name", "description"))
            found.append(Device(name, description, address))
    return found


def memory_of(device: Device) -> DeviceMemory:
    """A GPU's memory. An integrated one, and every one that Metal drives, uses the machine's."""
    base = _library("ggml-base")
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    ask, size = base.ggml_backend_dev_memory, ctypes.POINTER(ctypes.c_size_t)
    ask.argtypes, ask.restype = [ctypes.c_void_p, size, size], None
    ask(device.address, ctypes.byref(free), ctypes.byref(total))
    integrated = device.address is not None and _call(base, "type", ctypes.c_int, device.address) == _INTEGRATED_GPU
    return DeviceMemory(
        name=device.name,
        total_bytes=total.value,
        free_bytes=free.value,
        shared=integrated or device.name.lower().startswith(("metal", "mtl")),
    )


def choose(model: str, wanted: str, threads: int) -> Device:
    """The device called `wanted`; "auto" is the first GPU, else the CPU. Raises LoadFailedError for an unknown one."""
    cpu = Device(CPU, f"{platform.processor() or platform.machine()}, {threads} threads")
    found = gpus()
    if wanted == "auto":
        return found[0] if found else cpu
    for device in (*found, cpu):
        if device.name.casefold() == wanted.casefold():
            return device
    known = ", ".join(device.name for device in (*found, cpu))
    raise LoadFailedError(model, f"llama.cpp has no device {wanted!r} here", f"Devices: {known}.")


def _library(name: str) -> ctypes.CDLL:
    folder = Path(llama_cpp.__file__).parent / "lib"
    names = (f"lib{name}.so", f"lib{name}.dylib", f"{name}.dll", f"lib{name}.dll")
    return ctypes.CDLL(str(next(path for path in map(folder.joinpath, names) if path.exists())))


def _call(library: ctypes.CDLL, key: str, result: type[Any], address: int) -> Any:
    function = getattr(library, f"ggml_backend_dev_{key}")
    function.argtypes, function.restype = [ctypes.c_void_p], result
    return function(address)
