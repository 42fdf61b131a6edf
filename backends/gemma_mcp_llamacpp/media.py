"""Images: decoded by Pillow, cut into chunks by mtmd on any thread, encoded and computed on the runtime's thread."""

import ctypes
import hashlib
import io
import itertools
import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

from llama_cpp import mtmd_cpp
from PIL import Image, UnidentifiedImageError

from gemma_mcp.engine.backend import MediaPiece, Piece, TokenPiece
from gemma_mcp.errors import InputRefusedError, LoadFailedError, StepFailedError
from gemma_mcp_llamacpp.log import native_log
from gemma_mcp_llamacpp.native import Context, Model

__all__ = ["Projector"]

_PROBE_PIXELS = 4096
"""Side of the empty image that tells how many tokens the largest one takes; bigger ones are scaled down to it."""


class _Chunk:
    """A prepared image, freed when nothing refers to it any more: `release` may come while it is being computed."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.tokens = mtmd_cpp.mtmd_input_chunk_get_n_tokens(handle)
        self.positions = mtmd_cpp.mtmd_input_chunk_get_n_pos(handle)
        weakref.finalize(self, mtmd_cpp.mtmd_input_chunk_free, handle)


class Projector:
    """The vision half of a model, from its mmproj file."""

    def __init__(self, name: str, path: str, model: Model, *, threads: int, flash_attention: bool, gpu: bool) -> None:
        if not Path(path).is_file():
            raise LoadFailedError(name, f"there is no file {path}")
        parameters = mtmd_cpp.mtmd_context_params_default()
        parameters.use_gpu, parameters.n_threads = gpu, threads
        parameters.flash_attn_type = int(flash_attention)
        parameters.print_timings = parameters.warmup = False
        with native_log().errors() as reasons:
            handle = mtmd_cpp.mtmd_init_from_file(os.fsencode(path), model.handle, parameters)
        if handle is None:
            raise LoadFailedError(name, f"its projector {Path(path).name} does not load: {reasons}")
        if not mtmd_cpp.mtmd_support_vision(handle):
            mtmd_cpp.mtmd_free(handle)
            raise LoadFailedError(name, f"its projector {Path(path).name} is not one for images")
        self._handle = handle
        self._marker = mtmd_cpp.mtmd_default_marker()
        self._chunks: dict[int, _Chunk] = {}
        self._handles = itertools.count(1)
        self._lock = threading.Lock()

    def most_tokens(self) -> int:
        """Tokens of the largest image."""
        bitmap = mtmd_cpp.mtmd_bitmap_init(_PROBE_PIXELS, _PROBE_PIXELS, None)
        return max(piece.tokens for piece in self._cut(bitmap, "probe") if isinstance(piece, _Chunk))

    def prepare(self, data: bytes, limit: int) -> list[Piece]:
        """The image in a PNG or JPEG file as pieces of a prompt, with the tokens that the model wants around it."""
        width, height, pixels = _pixels(data)
        digest = hashlib.sha256(b"%dx%d:" % (width, height) + pixels).hexdigest()
        address = ctypes.cast(ctypes.c_char_p(pixels), ctypes.POINTER(ctypes.c_uint8))  # mtmd copies the pixels
        cut = self._cut(mtmd_cpp.mtmd_bitmap_init(width, height, address), "image")
        return [TokenPiece(part) if isinstance(part, tuple) else self._keep(part, digest, limit) for part in cut]

    def release(self, media: Sequence[int]) -> None:
        """Forget prepared images; unknown ones are ignored."""
        with self._lock:
            for handle in media:
                self._chunks.pop(handle, None)

    def compute(self, context: Context, media: int, slot: int, position: int) -> int:
        """Encode an image and compute it into a slot's cache; a code of llama_decode."""
        chunk = self._chunk(media)
        if mtmd_cpp.mtmd_encode_chunk(self._handle, chunk.handle):
            raise StepFailedError("The image could not be encoded.")
        embeddings = mtmd_cpp.mtmd_get_output_embd(self._handle)
        after = ctypes.c_int32(0)
        code = mtmd_cpp.mtmd_helper_decode_image_chunk(
            self._handle,
            context.handle,
            chunk.handle,
            embeddings,
            position,
            slot,
            context.step_tokens,
            ctypes.byref(after),
            mtmd_cpp.mtmd_helper_post_decode_callback(),  # none
            None,
        )
        context.attend_causally()  # an image that failed half-way must not leave its own attention behind
        return code

    def positions(self, media: int) -> int:
        """How many positions a prepared image takes."""
        return self._chunk(media).positions

    def close(self) -> None:
        """Free it and every image."""
        with self._lock:
            self._chunks.clear()
        mtmd_cpp.mtmd_free(self._handle)

    def _chunk(self, media: int) -> _Chunk:
        with self._lock:
            chunk = self._chunks.get(media)
        if chunk is None:
            raise StepFailedError(f"There is no image {media}; it was released.")
        return chunk

    def _keep(self, chunk: _Chunk, digest: str, limit: int) -> MediaPiece:
        if chunk.tokens > limit:
            raise InputRefusedError("image", f"it takes {chunk.tokens} tokens, more than a step's {limit}")
        with self._lock:
            media = next(self._handles)
            self._chunks[media] = chunk
        return MediaPiece(media, digest, chunk.positions)

    def _cut(self, bitmap: int, name: str) -> list["tuple[int, ...] | _Chunk"]:
        """What mtmd makes of a lone marker: token runs and image chunks. Frees the bitmap."""
        text = mtmd_cpp.mtmd_input_text(self._marker, len(self._marker), False, True)
        bitmaps = (ctypes.c_void_p * 1)(bitmap)
        chunks = mtmd_cpp.mtmd_input_chunks_init()
        try:
            with native_log().errors() as reasons:
                code = mtmd_cpp.mtmd_tokenize(self._handle, chunks, ctypes.byref(text), bitmaps, 1)
            if code:
                raise InputRefusedError(name, f"mtmd does not take it: {reasons}")
            count = mtmd_cpp.mtmd_input_chunks_size(chunks)
            return [_part(mtmd_cpp.mtmd_input_chunks_get(chunks, index)) for index in range(count)]
        finally:
            mtmd_cpp.mtmd_input_chunks_free(chunks)
            mtmd_cpp.mtmd_bitmap_free(bitmap)


def _part(chunk: int) -> "tuple[int, ...] | _Chunk":
    if mtmd_cpp.mtmd_input_chunk_get_type(chunk) != mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_TEXT:
        return _Chunk(mtmd_cpp.mtmd_input_chunk_copy(chunk))
    count = ctypes.c_size_t(0)
    tokens = mtmd_cpp.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
    return tuple(tokens[: count.value])


def _pixels(data: bytes) -> tuple[int, int, bytes]:
    """Width, height and RGB bytes of an image file."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            return image.width, image.height, image.convert("RGB").tobytes()
    except UnidentifiedImageError as error:
        raise InputRefusedError("image", "it is neither a PNG nor a JPEG file") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputRefusedError("image", f"it cannot be decoded ({error})") from error
