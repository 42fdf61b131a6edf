"""The candidates for the next token as llama.cpp's samplers take them: (id, logit, probability) for the vocabulary."""

import ctypes
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

__all__ = ["Candidates", "view"]

_LAYOUT = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""llama_token_data."""


def view(array: "llama_cpp.llama_token_data_array") -> NDArray[Any]:
    """The candidates in an array of llama.cpp's own: `id`, `logit` and `p`, not copied. Valid as long as it is."""
    address = ctypes.cast(array.data, ctypes.c_void_p).value or 0
    memory = (ctypes.c_char * (array.size * _LAYOUT.itemsize)).from_address(address)
    return np.frombuffer(memoryview(memory), _LAYOUT)


class Candidates:
    """One buffer for the whole vocabulary, filled anew for every choice."""

    def __init__(self, size: int) -> None:
        self._data = np.zeros(size, _LAYOUT)
        self._ids = np.arange(size, dtype=np.int32)
        self._array = llama_cpp.llama_token_data_array()
        self._pointer = ctypes.byref(self._array)
        self._start = self._data.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data))

    def fill(self, logits: NDArray[np.float32]) -> None:
        """Take the logits of a row."""
        self._data["id"] = self._ids  # samplers sort the buffer
        self._data["logit"] = logits
        self._array.data, self._array.size = self._start, len(self._ids)
        self._array.selected, self._array.sorted = -1, False

    def single(self, token: int) -> None:
        """Take one token as the only candidate."""
        self._data[0] = (token, 0.0, 0.0)
        self._array.data, self._array.size = self._start, 1
        self._array.selected, self._array.sorted = -1, False

    def apply(self, sampler: "llama_cpp.llama_sampler_p") -> None:
        """Let a sampler change, truncate or choose."""
        llama_cpp.llama_sampler_apply(sampler, self._pointer)

    @property
    def selected(self) -> int:
        """The chosen token; -1 for none."""
        index = self._array.selected
        return self._array.data[index].id if 0 <= index < self._array.size else -1
