"""Text to tokens and back, on a loaded model's vocabulary. Everything here may be called from any thread."""

import ctypes
import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence

import llama_cpp

from gemma_mcp.types import FimTokens

__all__ = ["Vocabulary"]

_FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_separator|>")
"""CodeGemma's markers; llama.cpp does not announce them for Gemma vocabularies."""


class Vocabulary:
    """The vocabulary of a model. It lives as long as the model does."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.size = llama_cpp.llama_vocab_n_tokens(handle)
        self.bos = llama_cpp.llama_vocab_bos(handle)
        self.adds_bos = llama_cpp.llama_vocab_get_add_bos(handle) and self.bos >= 0
        self.digest = self._digest()
        self._pieces: dict[int, bytes] = {}
        self._fim = [self._control(marker) for marker in _FIM]
        self._marker_ids = self._own_markers()
        self._markers = self._marker_pattern()
        ends = {token for token in range(self.size) if llama_cpp.llama_vocab_is_eog(handle, token)}
        self.ends = frozenset(ends.union(token for token in self._fim if token is not None))
        """Tokens that end generation: the vocabulary's own and the fill-in-the-middle markers."""

    def _digest(self) -> str:
        """Of the texts of all tokens; 262,144 of them take some 0.1 s."""
        digest = hashlib.sha256()
        for token in range(self.size):
            digest.update(llama_cpp.llama_vocab_get_text(self.handle, token) or b"")
            digest.update(b"\0")
        return digest.hexdigest()

    def text(self, token: int) -> str:
        """How a token is written in control text; empty for none."""
        raw = llama_cpp.llama_vocab_get_text(self.handle, token) if 0 <= token < self.size else None
        return (raw or b"").decode("utf-8", "replace")

    @property
    def bos_text(self) -> str:
        """The beginning-of-sequence token as control text."""
        return self.text(self.bos)

    @property
    def eos_text(self) -> str:
        """The end-of-sequence token as control text."""
        return self.text(llama_cpp.llama_vocab_eos(self.handle))

    @property
    def fim(self) -> FimTokens | None:
        """The fill-in-the-middle markers of a vocabulary that has them."""
        if None in self._fim[:3]:
            return None
        return FimTokens(
            prefix=_FIM[0], suffix=_FIM[1], middle=_FIM[2], separator=None if self._fim[3] is None else _FIM[3]
        )

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Token ids of `text`; with `special`, control tokens written in it are honoured."""
        if special or self._markers is None:
            return self._tokenize(text, special)
        cuts = [0, *(match.start() + 1 for match in self._markers.finditer(text)), len(text)]
        return [token for start, end in itertools.pairwise(cuts) for token in self._tokenize(text[start:end], False)]

    def _tokenize(self, text: str, special: bool) -> list[int]:
        data = _utf8(text)
        tokens = (ctypes.c_int32 * (len(data) + 1))()
        count = llama_cpp.llama_tokenize(self.handle, data, len(data), tokens, len(tokens), False, special)
        if count < 0:  # more tokens than bytes: a vocabulary that adds a prefix
            tokens = (ctypes.c_int32 * -count)()
            count = llama_cpp.llama_tokenize(self.handle, data, len(data), tokens, len(tokens), False, special)
        return tokens[:count]

    def with_bos(self, tokens: Sequence[int]) -> list[int]:
        """`tokens` with the beginning-of-sequence token first and nowhere else."""
        wanted = self.adds_bos or (bool(tokens) and tokens[0] == self.bos)
        return ([self.bos] if wanted else []) + self.without_bos(tokens)

    def without_bos(self, tokens: Iterable[int]) -> list[int]:
        """`tokens` without any beginning-of-sequence token."""
        return [token for token in tokens if token != self.bos]

    def piece(self, token: int) -> bytes:
        """The bytes of one token; control tokens have none."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._render(token)
        return piece

    def plain_piece(self, token: int) -> bytes:
        """The bytes of a token of ordinary text; markers have none, whatever their kind."""
        return b"" if token in self._marker_ids or token in self.ends else self.piece(token)

    def detokenize(self, tokens: Iterable[int]) -> bytes:
        """The bytes of several tokens."""
        return b"".join(map(self.piece, tokens))

    def _render(self, token: int) -> bytes:
        if not 0 <= token < self.size:
            return b""
        for size in (64, 65536):
            buffer = ctypes.create_string_buffer(size)
            count = llama_cpp.llama_token_to_piece(self.handle, token, buffer, size, 0, False)
            if count >= 0:
                return buffer.raw[:count]
        return b""

    def _own_markers(self) -> frozenset[int]:
        """User-defined tokens that are markers: Gemma 4's. Others, such as runs of spaces and HTML tags, are text."""
        kind = llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
        own = (token for token in range(self.size) if llama_cpp.llama_vocab_get_attr(self.handle, token) & kind)
        return frozenset(token for token in own if self.text(token).startswith("<|") or self.text(token).endswith("|>"))

    def _marker_pattern(self) -> re.Pattern[str] | None:
        """Finds what must be cut in users' text: llama.cpp honours user-defined tokens there, these markers too."""
        texts = [self.text(token) for token in sorted(self._marker_ids)]
        return re.compile(f"(?={'|'.join(map(re.escape, texts))})") if texts else None

    def _control(self, marker: str) -> int | None:
        """The id of a control token that is written `marker`, if the vocabulary has one."""
        tokens = self.tokenize(marker, special=True)
        known = len(tokens) == 1 and self.text(tokens[0]) == marker
        return tokens[0] if known and llama_cpp.llama_vocab_is_control(self.handle, tokens[0]) else None


def _utf8(text: str) -> bytes:
    """UTF-8 for llama.cpp, which throws on anything else: lone surrogates become U+FFFD, NUL stays."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def merge(runs: Iterable[tuple[bool, str]]) -> list[tuple[bool, str]]:
    """Join neighbouring texts of one kind (control or not), so that words are not cut between them."""
    return [
        (kind, "".join(text for _, text in group)) for kind, group in itertools.groupby(runs, key=lambda run: run[0])
    ]
