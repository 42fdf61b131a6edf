"""A model, its context and its batch: the calls that compute. One thread owns them."""

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from gemma_mcp.engine.backend import LoadOptions, TokenRow
from gemma_mcp.errors import LoadFailedError, StepFailedError
from gemma_mcp_llamacpp.devices import Device
from gemma_mcp_llamacpp.log import native_log

__all__ = ["ABORTED", "DONE", "DRAFT_TOKENS", "NO_ROOM", "Batch", "Context", "Model", "Saved"]

DONE, NO_ROOM, ABORTED = 0, 1, 2
"""Codes of llama_decode."""

DRAFT_TOKENS = 16
"""Guesses in one step. Each takes a row of logits, a megabyte with Gemma's vocabulary."""

_WINDOW_ONLY = 1
"""LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY of llama.h."""

_KV_TYPES = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0}


class Model:
    """Weights and vocabulary of a GGUF file."""

    def __init__(self, name: str, path: str, device: Device, gpu_layers: int, progress: Callable[[float], None]):
        if not Path(path).is_file():
            raise LoadFailedError(name, f"there is no file {path}")
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = gpu_layers
        chosen = device.pointers()
        parameters.devices = ctypes.cast(chosen, ctypes.c_void_p)
        report = _Progress(progress)
        parameters.progress_callback = report.callback
        with native_log().errors() as reasons:
            handle = llama_cpp.llama_model_load_from_file(os.fsencode(path), parameters)
        if report.failure is not None:
            raise report.failure
        if handle is None:
            raise LoadFailedError(name, str(reasons), "Check the file; download it again if it is incomplete.")
        self.handle = handle

    def metadata(self, key: str) -> str:
        """A value of the file's header as text; empty when it is not there."""
        return _string(lambda buffer, size: llama_cpp.llama_model_meta_val_str(self.handle, key.encode(), buffer, size))

    @property
    def description(self) -> str:
        """Architecture, size and quantisation in llama.cpp's words."""
        return _string(lambda buffer, size: llama_cpp.llama_model_desc(self.handle, buffer, size))

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the model's own chat template."""
        raw = llama_cpp.llama_model_chat_template(self.handle, None)
        return None if raw is None else raw.decode("utf-8", "replace")

    def close(self) -> None:
        """Free the weights."""
        llama_cpp.llama_model_free(self.handle)


class _Progress:
    """Forwards the progress of a load; an exception of the listener ends the load and is kept in `failure`."""

    def __init__(self, progress: Callable[[float], None]) -> None:
        self._progress = progress
        self.failure: BaseException | None = None
        self.callback = llama_cpp.llama_progress_callback(self._report)

    def _report(self, value: float, data: object) -> bool:
        try:
            self._progress(value)
        except BaseException as error:  # it must not unwind through C
            self.failure = error
        return self.failure is None


def _string(read: Callable[[ctypes.Array[ctypes.c_char], int], int]) -> str:
    buffer = ctypes.create_string_buffer(512)
    return buffer.value.decode("utf-8", "replace") if read(buffer, len(buffer)) >= 0 else ""


@dataclass(frozen=True)
class Saved:
    """A window's cells, as llama.cpp writes them, of a slot that held so many positions."""

    positions: int
    state: "ctypes.Array[ctypes.c_uint8]"


class Batch:
    """The arrays of one llama_decode, allocated once and filled by slices."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._tokens = (ctypes.c_int32 * capacity)()
        self._positions = (ctypes.c_int32 * capacity)()
        self._slots = (ctypes.c_int32 * capacity)()
        self._outputs = (ctypes.c_int8 * capacity)()
        self._ones = (ctypes.c_int32 * capacity)(*[1] * capacity)
        first = ctypes.addressof(self._slots)
        self._slot_pointers = (ctypes.c_void_p * capacity)(*range(first, first + 4 * capacity, 4))
        self.struct = llama_cpp.llama_batch()
        self.struct.token = self._tokens
        self.struct.pos = self._positions
        self.struct.n_seq_id = self._ones
        self.struct.seq_id = ctypes.cast(self._slot_pointers, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)))
        self.struct.logits = self._outputs

    def fill(self, rows: Sequence[TokenRow]) -> list[int]:
        """Take `rows`; where the last token of each stands."""
        last: list[int] = []
        start = 0
        for row in rows:
            count = len(row.tokens)
            end = start + count
            if count == 1:  # a decoding row: slices cost more than items
                self._tokens[start] = row.tokens[0]
                self._positions[start] = row.position
                self._slots[start] = row.slot
            else:
                self._tokens[start:end] = row.tokens
                self._positions[start:end] = range(row.position, row.position + count)
                self._slots[start:end] = [row.slot] * count
                self._outputs[start:end] = bytes(count)
            self._outputs[end - 1] = row.sample
            for guess in range(row.draft):
                self._outputs[end - 2 - guess] = True
            last.append(end - 1)
            start = end
        self.struct.n_tokens = start
        return last


class Context:
    """The KV cache of all slots and the passes over it."""

    def __init__(
        self, name: str, model: Model, options: LoadOptions, *, cells: int, step_tokens: int, threads: int, gpu: bool
    ):
        self.slots = options.slots
        parameters = _context_parameters(options, cells, step_tokens, threads, gpu)
        with native_log().errors() as reasons:
            handle = llama_cpp.llama_init_from_model(model.handle, parameters)
        if handle is None:
            raise LoadFailedError(name, str(reasons), "Lower llamacpp.context, llamacpp.slots or llamacpp.step_tokens.")
        self.handle = handle
        self._threads = threads
        self.step_tokens = llama_cpp.llama_n_batch(handle)
        self.batch = Batch(self.step_tokens)
        self._memory = llama_cpp.llama_get_memory(handle)
        self._window = llama_cpp.llama_model_n_swa(model.handle)
        self._state_bytes, self._cell_bytes = self._measure_cells() if self._window else (0, 0)
        self._stop = ctypes.create_string_buffer(2)
        llama_cpp.llama_set_abort_callback(handle, _abort_callback(), ctypes.cast(self._stop, ctypes.c_void_p))

    def decode(self) -> int:
        """Compute the batch; one of the codes above, or a negative one."""
        code = llama_cpp.llama_decode(self.handle, self.batch.struct)
        llama_cpp.llama_synchronize(self.handle)
        return code

    def use_threads(self, count: int) -> None:
        """Let the next passes use so many."""
        if count != self._threads:
            self._threads = count
            llama_cpp.llama_set_n_threads(self.handle, count, count)

    def attend_causally(self) -> None:
        """Let every position see the ones before it alone, as text does."""
        llama_cpp.llama_set_causal_attn(self.handle, True)

    def stop(self, wanted: bool) -> None:
        """Whether a running pass is to end at its next graph node. Any thread."""
        self._stop[0] = b"\x01" if wanted else b"\x00"

    @property
    def stopping(self) -> bool:
        """Whether `stop` was asked for."""
        return self._stop[0] != b"\x00"

    def length(self, slot: int) -> int:
        """How many positions of a slot are valid."""
        return llama_cpp.llama_memory_seq_pos_max(self._memory, slot) + 1

    def trim(self, slot: int, keep: int, spare: Saved | None) -> int:
        """Shorten a slot's cache to `keep` positions, or to those of the spare where the window has moved on."""
        length = self.length(slot)
        if keep >= length:
            return length
        llama_cpp.llama_memory_seq_rm(self._memory, slot, keep, -1)  # says true even where the window is gone
        if not keep or not self._window or self._remembers(slot, keep):
            return keep
        return self._restore(slot, spare)

    def fork(self, source: int, target: int, keep: int, spare: Saved | None) -> int:
        """Let `target` share the first `keep` positions of `source`; how many it has then.

        The cells of a window are copied, not shared: llama.cpp never uses a window's cell anew that two slots hold.
        """
        llama_cpp.llama_memory_seq_rm(self._memory, target, 0, -1)
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, keep)
        if not self._window:
            return keep
        if (spare is None or spare.positions < keep) and self._remembers(target, keep):
            spare = self.save(target)
        return self._restore(target, spare)

    def save(self, slot: int) -> Saved:
        """What the window of a slot holds, as far as the next position needs it."""
        size = self._window_bytes(slot)
        state = (ctypes.c_uint8 * size)()
        llama_cpp.llama_state_seq_get_data_ext(self.handle, state, size, slot, _WINDOW_ONLY)
        return Saved(self.length(slot), state)

    def _restore(self, slot: int, spare: Saved | None) -> int:
        """Cut a slot back to what was saved, in cells of its own; to nothing when nothing was, or there is no room."""
        if spare is not None:
            llama_cpp.llama_memory_seq_rm(self._memory, slot, spare.positions, -1)
            with native_log().errors():
                llama_cpp.llama_state_seq_set_data_ext(self.handle, spare.state, len(spare.state), slot, _WINDOW_ONLY)
            if self._remembers(slot, spare.positions):
                return spare.positions
        llama_cpp.llama_memory_seq_rm(self._memory, slot, 0, -1)
        return 0

    def logits(self, row: int, size: int) -> NDArray[np.float32]:
        """The logits of a row of the last pass: a view that the next pass overwrites."""
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.handle, row), (size,))

    def close(self) -> None:
        """Free the cache."""
        llama_cpp.llama_free(self.handle)

    def _remembers(self, slot: int, keep: int) -> bool:
        """Whether the next position after `keep` still finds every key that its window covers.

        The oldest position must be old enough, and nothing after it may be missing: slots share their cells, and one
        may have taken a cell out of the middle of what another had left behind. The state of a slot holds the cells of
        its window and no others, so its size tells how many there are. With `swa_full` it is the same once cells run
        short: llama.cpp then takes those that no window covers there, too.
        """
        if not 0 <= llama_cpp.llama_memory_seq_pos_min(self._memory, slot) <= max(0, keep - self._window):
            return False
        return self._window_bytes(slot) == self._state_bytes + min(keep, self._window) * self._cell_bytes

    def _window_bytes(self, slot: int) -> int:
        return llama_cpp.llama_state_seq_get_size_ext(self.handle, slot, _WINDOW_ONLY)

    def _measure_cells(self) -> tuple[int, int]:
        """Bytes of the state of an empty window and of each cell in it, from computing two tokens."""
        self.batch.fill([TokenRow(0, 0, (0, 0), False)])
        if self.decode() != DONE:
            self.close()
            raise StepFailedError("llama.cpp could not compute two tokens.", "The device may be out of memory.")
        two = self._window_bytes(0)
        llama_cpp.llama_memory_seq_rm(self._memory, 0, 1, -1)
        cell = two - self._window_bytes(0)
        llama_cpp.llama_memory_seq_rm(self._memory, 0, 0, -1)
        return two - 2 * cell, cell


def _context_parameters(
    options: LoadOptions, cells: int, step_tokens: int, threads: int, gpu: bool
) -> llama_cpp.llama_context_params:
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = cells
    parameters.n_batch = parameters.n_ubatch = step_tokens  # an image must fit one physical batch
    parameters.n_seq_max = options.slots
    parameters.n_outputs_max = options.slots + DRAFT_TOKENS  # 0 would reserve n_batch rows of logits
    parameters.n_outputs_max_per_seq = 1 + DRAFT_TOKENS
    parameters.n_threads = parameters.n_threads_batch = threads
    parameters.flash_attn_type = int(options.flash_attention)
    parameters.type_k = parameters.type_v = _KV_TYPES[options.kv_type]
    parameters.offload_kqv = parameters.op_offload = gpu
    parameters.no_perf = True
    parameters.swa_full = options.swa_full
    parameters.kv_unified = True  # any slot may use any cell
    return parameters


def _abort_callback() -> llama_cpp.ggml_abort_callback:
    """A C function that says whether the byte at its argument is set: strlen of a one-letter string is 1, else 0.

    ggml asks it before every graph node. A Python function would take the GIL each time, thousands of times a pass.
    """
    library = ctypes.CDLL("msvcrt") if sys.platform == "win32" else ctypes.CDLL(None)
    return ctypes.cast(library.strlen, llama_cpp.ggml_abort_callback)
