"""How a slot chooses its next token: a chain of llama.cpp's samplers and ours, a grammar, log-probabilities.

Order: what needs the whole vocabulary and was asked for (bias, penalties, DRY), then top-k, so that everything after it
sees few candidates, then the truncations, the temperature, and last the sampler that chooses.
"""

import ctypes
import math
import random
from collections.abc import Iterator

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from gemma_mcp.engine.backend import Sampled, SlotOptions
from gemma_mcp.errors import RequestError
from gemma_mcp.types import Sampling, TokenLogprob
from gemma_mcp_llamacpp.candidates import Candidates
from gemma_mcp_llamacpp.entropy import EntropySamplers
from gemma_mcp_llamacpp.grammar import CompiledGrammar
from gemma_mcp_llamacpp.native import Context
from gemma_mcp_llamacpp.vocabulary import Vocabulary

__all__ = ["Chooser"]

_MIROSTAT_M = 100
"""Tokens that mirostat 1 estimates from; the paper's value."""

_BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("temperature", 0, 1e3),
    ("top_p", 0, 1),
    ("min_p", 0, 1),
    ("typical_p", 0, 1),
    ("repeat_penalty", 1e-3, 1e3),
    ("frequency_penalty", -1e3, 1e3),
    ("presence_penalty", -1e3, 1e3),
    ("dry_multiplier", 0, 1e3),
    ("dry_base", 1, 1e3),
    ("dry_allowed_length", 0, 1 << 20),
    ("xtc_probability", 0, 1),
    ("xtc_threshold", 0, 1),
    ("mirostat_tau", 0, 1e3),
    ("mirostat_eta", 0, 1e3),
    ("dynatemp_range", 0, 1e3),
    ("dynatemp_exponent", 0, 1e3),
    ("eta_cutoff", 0, 1),
    ("edt_theta", 0, 1e3),
    ("edt_base", 1e-3, 1),
)
"""llama.cpp takes floats unchecked; outside of these it computes nonsense or aborts."""

_MAX_BREAKERS = 16
"""llama.cpp searches the whole vocabulary for each DRY breaker."""


class Chooser:
    """Chooses the tokens of one slot. Every value of the sampling is set; llama.cpp's own defaults are never used."""

    def __init__(self, vocabulary: Vocabulary, options: SlotOptions, candidates: Candidates, context_length: int):
        sampling = options.sampling
        _check(sampling, vocabulary.size)
        self._vocabulary = vocabulary
        self._candidates = candidates
        self._logprobs = options.logprobs
        self._seed = _seed(sampling.seed)
        self._draws = sampling.temperature > 0 and not sampling.mirostat
        self._chosen = 0
        self._grammar = None if options.grammar is None else CompiledGrammar(vocabulary, options.grammar)
        self._tentative = self._grammar is not None and (_penalizes(sampling) or sampling.dry_multiplier > 0)
        self._entropy = EntropySamplers(sampling)
        self._front = _chain(_transforms(sampling, vocabulary, context_length, self._seed, self._entropy))
        self._last = _last(sampling, vocabulary.size, self._seed)
        self._chain = _chain(iter((self._front, self._last)))
        self._replay(options.history)

    def choose(self, context: Context, row: int, saved: NDArray[np.float32] | None = None) -> Sampled:
        """The next token for a row of the last pass, or for logits that were saved from it."""
        self._chosen += 1
        if saved is None and not self._tentative:
            token = llama_cpp.llama_sampler_sample(self._chain, context.handle, row)  # chooses and accepts
            if self._grammar is None and self._logprobs is None:
                return self._sampled(token, None)
            return self._finish(token, context.logits(row, self._vocabulary.size))
        logits = context.logits(row, self._vocabulary.size) if saved is None else saved
        sampled = self._finish(self._apply(logits, self._chain), logits)
        llama_cpp.llama_sampler_accept(self._chain, sampled.token)
        return sampled

    def close(self) -> None:
        """Free the samplers."""
        llama_cpp.llama_sampler_free(self._chain)  # and what was added to it
        self._entropy.close()
        if self._grammar is not None:
            self._grammar.close()

    def _finish(self, token: int, logits: NDArray[np.float32]) -> Sampled:
        if self._grammar is not None:
            token = self._obey(self._grammar, token, logits)
        logprob = None if self._logprobs is None else _logprob(self._vocabulary, token, logits, self._logprobs)
        return self._sampled(token, logprob)

    def _sampled(self, token: int, logprob: TokenLogprob | None) -> Sampled:
        return Sampled(token, self._vocabulary.piece(token), token in self._vocabulary.ends, logprob)

    def _obey(self, grammar: CompiledGrammar, token: int, logits: NDArray[np.float32]) -> int:
        """`token` if the grammar allows it, else the choice among what it does allow."""
        if not grammar.allows(token):
            token = self._again(grammar, logits)
        grammar.accept(token)
        return token

    def _again(self, grammar: CompiledGrammar, logits: NDArray[np.float32]) -> int:
        self._candidates.fill(logits)
        grammar.mask(self._candidates)
        self._candidates.apply(self._front)
        pick = llama_cpp.llama_sampler_init_dist(_mixed(self._seed, self._chosen)) if self._draws else self._last
        self._candidates.apply(
            pick
        )  # a draw of its own: the chain's generator moves once a token, so it can be replayed
        if self._draws:
            llama_cpp.llama_sampler_free(pick)
        token = self._candidates.selected
        if token >= 0 and grammar.allows(token):
            return token
        for token in self._vocabulary.ends:
            if grammar.allows(token):
                return token
        raise RequestError(
            "The grammar allows no token here that the model has and the logit bias leaves.", "Change one of them."
        )

    def _apply(self, logits: NDArray[np.float32], sampler: "llama_cpp.llama_sampler_p") -> int:
        self._candidates.fill(logits)
        self._candidates.apply(sampler)
        return self._candidates.selected

    def _replay(self, history: tuple[int, ...]) -> None:
        """Come to where a sampler stood after `history`. Exact but for XTC and mirostat, which also remember logits."""
        for token in history:
            llama_cpp.llama_sampler_accept(self._chain, token)
            if self._grammar is not None:
                if not self._grammar.allows(token):
                    raise RequestError("The history does not follow the grammar.")
                self._grammar.accept(token)
            if self._draws:
                self._candidates.single(token)
                self._candidates.apply(self._last)
        self._chosen = len(history)


def _check(sampling: Sampling, vocab_size: int) -> None:
    for name, low, high in _BOUNDS:
        value = getattr(sampling, name)
        if not low <= value <= high:
            raise RequestError(f"{name} is {value}, but must be from {low:g} to {high:g}.")
    if sampling.edt_theta > 0 and sampling.dynatemp_range > 0:
        raise RequestError("edt_theta and dynatemp_range both change the temperature.", "Give one of them.")
    if len(sampling.dry_breakers) > _MAX_BREAKERS:
        raise RequestError(f"dry_breakers has {len(sampling.dry_breakers)} entries; {_MAX_BREAKERS} are allowed.")
    for token, bias in sampling.logit_bias:
        if not 0 <= token < vocab_size or math.isnan(bias) or bias == math.inf:
            raise RequestError(f"logit_bias names token {token} with {bias}; tokens are 0 to {vocab_size - 1}.")


def _seed(seed: int | None) -> int:
    """A seed as llama.cpp takes it: 32 bits, without the value that means a random one there."""
    wanted = random.SystemRandom().getrandbits(64) if seed is None else seed
    return wanted % llama_cpp.LLAMA_DEFAULT_SEED


def _mixed(seed: int, index: int) -> int:
    """Another seed for each token of a reply, by the finalizer of splitmix64."""
    mixed = (seed + index * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return _seed(mixed ^ (mixed >> 31))


def _chain(samplers: Iterator["llama_cpp.llama_sampler_p"]) -> "llama_cpp.llama_sampler_p":
    parameters = llama_cpp.llama_sampler_chain_default_params()
    parameters.no_perf = True
    chain = llama_cpp.llama_sampler_chain_init(parameters)
    for sampler in samplers:
        llama_cpp.llama_sampler_chain_add(chain, sampler)  # the chain owns it now
    return chain


def _transforms(
    sampling: Sampling, vocabulary: Vocabulary, context_length: int, seed: int, entropy: EntropySamplers
) -> Iterator["llama_cpp.llama_sampler_p"]:
    yield from _penalties(sampling, vocabulary, context_length)
    if sampling.temperature == 0:
        return  # greedy: truncations keep the likeliest token
    if sampling.mirostat:
        yield from entropy.measurement()
    else:
        yield from _truncations(sampling, vocabulary.size, seed, entropy)
    yield from _temperature(sampling, entropy)


def _temperature(sampling: Sampling, entropy: EntropySamplers) -> Iterator["llama_cpp.llama_sampler_p"]:
    if entropy.tempers:
        yield from entropy.temperature()
    elif sampling.dynatemp_range > 0:
        yield llama_cpp.llama_sampler_init_temp_ext(
            sampling.temperature, sampling.dynatemp_range, sampling.dynatemp_exponent
        )
    elif sampling.temperature != 1:
        yield llama_cpp.llama_sampler_init_temp(sampling.temperature)


def _penalties(
    sampling: Sampling, vocabulary: Vocabulary, context_length: int
) -> Iterator["llama_cpp.llama_sampler_p"]:
    if sampling.logit_bias:
        biases = [llama_cpp.llama_logit_bias(token, bias) for token, bias in sampling.logit_bias]
        array = (llama_cpp.llama_logit_bias * len(biases))(*biases)
        yield llama_cpp.llama_sampler_init_logit_bias(vocabulary.size, len(biases), array)
    if _penalizes(sampling):
        yield llama_cpp.llama_sampler_init_penalties(
            vocabulary.size,
            _span(sampling.repeat_last_n, context_length),
            sampling.repeat_penalty,
            sampling.frequency_penalty,
            sampling.presence_penalty,
        )
    if sampling.dry_multiplier > 0:
        breakers = [breaker.encode("utf-8", "replace") for breaker in sampling.dry_breakers]
        yield llama_cpp.llama_sampler_init_dry(
            vocabulary.handle,
            sampling.dry_multiplier,
            sampling.dry_base,
            sampling.dry_allowed_length,
            _span(sampling.dry_last_n, context_length),
            (ctypes.c_char_p * len(breakers))(*breakers),
            len(breakers),
        )


def _truncations(
    sampling: Sampling, vocab_size: int, seed: int, entropy: EntropySamplers
) -> Iterator["llama_cpp.llama_sampler_p"]:
    if 0 < sampling.top_k < vocab_size:
        yield llama_cpp.llama_sampler_init_top_k(sampling.top_k)
    yield from entropy.measurement()
    yield from entropy.truncation()
    if sampling.typical_p < 1:
        yield llama_cpp.llama_sampler_init_typical(sampling.typical_p, 1)
    if sampling.top_p < 1:
        yield llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1)
    if sampling.min_p > 0:
        yield llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1)
    if sampling.xtc_probability > 0:
        yield llama_cpp.llama_sampler_init_xtc(sampling.xtc_probability, sampling.xtc_threshold, 1, seed)


def _last(sampling: Sampling, vocab_size: int, seed: int) -> "llama_cpp.llama_sampler_p":
    if sampling.temperature == 0:
        return llama_cpp.llama_sampler_init_greedy()
    if sampling.mirostat == 1:
        return llama_cpp.llama_sampler_init_mirostat(
            vocab_size, seed, sampling.mirostat_tau, sampling.mirostat_eta, _MIROSTAT_M
        )
    if sampling.mirostat == 2:
        return llama_cpp.llama_sampler_init_mirostat_v2(seed, sampling.mirostat_tau, sampling.mirostat_eta)
    return llama_cpp.llama_sampler_init_dist(seed)


def _penalizes(sampling: Sampling) -> bool:
    changed = sampling.repeat_penalty != 1 or sampling.frequency_penalty != 0 or sampling.presence_penalty != 0
    return changed and sampling.repeat_last_n != 0


def _span(last_n: int, context_length: int) -> int:
    """How many tokens back to look; negative means all of them."""
    return context_length if last_n < 0 else min(last_n, context_length)


def _logprob(vocabulary: Vocabulary, token: int, logits: NDArray[np.float32], count: int) -> TokenLogprob:
    """Log-softmax over the whole row, before any truncation, and its `count` best."""
    highest = logits.max()
    total = float(highest) + math.log(float(np.exp(logits - highest, dtype=np.float64).sum()))
    count = max(0, min(count, len(logits)))
    best = np.argpartition(logits, len(logits) - count)[len(logits) - count :] if count else np.empty(0, np.int64)
    ranked = sorted(map(int, best), key=lambda index: (-logits[index], index))
    top = tuple((index, vocabulary.piece(index), float(logits[index]) - total) for index in ranked)
    return TokenLogprob(token, vocabulary.piece(token), float(logits[token]) - total, top)
