"""Samplers of our own: those that look at the entropy of the distribution before they cut or temper it.

Entropies are in nats, and of the distribution that top-k leaves: with `top_k` 0 that is the model's own.

Eta sampling (Hewitt, Manning, Liang 2022, "Truncation Sampling as Language Model Desmoothing"): a token is cut when its
probability is below `min(eps, sqrt(eps) * exp(-H))`; the likeliest one stays.

Entropy-based dynamic temperature (Zhang, Bao, Huang 2024, "EDT"): `T = T0 * N ** (theta / H)`. The surer the model is,
the colder it gets, down to greedy where H is 0; the paper's N is 0.8, its T0 is our `temperature`.
"""

import ctypes
import math
from collections.abc import Callable, Iterator

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from gemma_mcp.types import Sampling
from gemma_mcp_llamacpp.candidates import view

__all__ = ["EntropySamplers", "edt_temperature", "entropy", "eta_kept", "tempered"]

Floats = NDArray[np.float64]
Change = Callable[["llama_cpp.llama_token_data_array"], None]

COLDEST = 1e-30
"""Nothing is divided by less; it is greedy long before."""


def probabilities(logits: NDArray[np.float32]) -> Floats:
    """Softmax. A logit of -inf has none; all of them together have none either."""
    highest = float(logits.max())
    if highest == -math.inf:
        return np.zeros(len(logits))
    shares: Floats = np.exp(logits.astype(np.float64) - highest)
    return shares / shares.sum()


def entropy(shares: Floats) -> float:
    """In nats."""
    positive = shares[shares > 0]
    return max(0.0, -float(np.sum(positive * np.log(positive))))


def eta_kept(logits: NDArray[np.float32], eps: float) -> NDArray[np.bool_]:
    """Which candidates eta sampling keeps: the likeliest, and all that are not improbable for their entropy."""
    shares = probabilities(logits)
    kept: NDArray[np.bool_] = shares >= min(eps, math.sqrt(eps) * math.exp(-entropy(shares)))
    kept[int(shares.argmax())] = True
    return kept


def edt_temperature(nats: float, temperature: float, theta: float, base: float) -> float:
    """The temperature for a distribution of so much entropy."""
    if nats == 0:
        return 0.0 if base < 1 else temperature
    return temperature * math.exp(theta / nats * math.log(base))


def tempered(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """The logits at a temperature, the highest moved to 0, so that a low temperature overflows none."""
    highest = float(logits.max())
    if highest == -math.inf:
        return logits
    below: Floats = logits.astype(np.float64) - highest
    with np.errstate(over="ignore"):  # beyond a float32 stands -inf, which means the same
        return (below / max(temperature, COLDEST)).astype(np.float32)


class EntropySamplers:
    """These samplers as links of one slot's chain, where `sampling` asks for them. Keep it as long as the chain."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._entropy = 0.0
        self._links: list[_Link] = []

    @property
    def tempers(self) -> bool:
        """Whether the temperature depends on the entropy."""
        return self._sampling.edt_theta > 0

    def truncation(self) -> Iterator["llama_cpp.llama_sampler_p"]:
        """Eta sampling."""
        if self._sampling.eta_cutoff > 0:
            yield self._link(self._cut)

    def measurement(self) -> Iterator["llama_cpp.llama_sampler_p"]:
        """What the temperature later in the chain depends on, before other samplers cut it."""
        if self.tempers:
            yield self._link(self._measure)

    def temperature(self) -> Iterator["llama_cpp.llama_sampler_p"]:
        """The temperature that follows the entropy."""
        yield self._link(self._temper)

    def close(self) -> None:
        """Let go of what the chain, which is gone, called."""
        self._links.clear()

    def _link(self, change: Change) -> "llama_cpp.llama_sampler_p":
        self._links.append(_Link(change))
        return self._links[-1].handle

    def _cut(self, array: "llama_cpp.llama_token_data_array") -> None:
        candidates = view(array)
        kept = candidates[eta_kept(candidates["logit"], self._sampling.eta_cutoff)]  # a copy, in the same order
        candidates[: len(kept)] = kept
        array.size = len(kept)

    def _measure(self, array: "llama_cpp.llama_token_data_array") -> None:
        self._entropy = entropy(probabilities(view(array)["logit"]))

    def _temper(self, array: "llama_cpp.llama_token_data_array") -> None:
        sampling, candidates = self._sampling, view(array)
        now = edt_temperature(self._entropy, sampling.temperature, sampling.edt_theta, sampling.edt_base)
        candidates["logit"] = tempered(candidates["logit"], now)


class _Link:
    """A sampler that llama.cpp calls back for. It remembers no token, so there is nothing to accept, reset or free."""

    def __init__(self, change: Change) -> None:
        self._apply = llama_cpp.llama_sampler_i_apply(lambda _, array: change(array.contents))
        self._interface = llama_cpp.llama_sampler_i(apply=self._apply)
        self.handle = llama_cpp.llama_sampler_init(ctypes.byref(self._interface), None)
