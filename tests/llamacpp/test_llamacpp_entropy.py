"""Our own samplers against plain numpy: eta sampling, and the temperature that follows the entropy."""

import math
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from gemma_mcp_llamacpp.entropy import edt_temperature, entropy, eta_kept, tempered
from llamacpp_models import SMALL, Load
from numpy.typing import NDArray

from gemma_mcp.engine.backend import Executor, Sampled, SlotOptions, Step, TokenPiece, Trim
from gemma_mcp.errors import RequestError
from gemma_mcp.testing.generation import GREEDY, decode_on, ids_of, length, prefill, reply, tokens_of
from gemma_mcp.types import Grammar, Sampling, Text

PLAIN = Sampling(temperature=1.0, top_k=0, top_p=1.0, seed=11)
DRAWS = 1500


def changed(base: Sampling = PLAIN, /, **changes: object) -> Sampling:
    return msgspec.structs.replace(base, **changes)


ETA = changed(eta_cutoff=0.9)
EDT = changed(temperature=1.7, edt_theta=20.0)
BOTH = changed(temperature=1.4, eta_cutoff=0.3, edt_theta=1.0, edt_base=0.7, top_k=200, top_p=0.97, seed=12)


@pytest.fixture
def executor(load: Load, tiny: Path) -> Executor:
    return load(tiny / "gemma3.gguf", SMALL)


# --- the reference, written as the papers write it ----------------------------------------------------------------


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    shares = np.exp(logits.astype(np.float64) - float(logits.max()))
    return shares / shares.sum()


def shannon(shares: NDArray[np.float64]) -> float:
    return -sum(p * math.log(p) for p in shares.tolist() if p > 0)


def eta_reference(logits: NDArray[np.floating], eps: float) -> set[int]:
    shares = softmax(logits)
    bound = min(eps, math.sqrt(eps) * math.exp(-shannon(shares)))
    return {index for index, p in enumerate(shares.tolist()) if p >= bound or p == shares.max()}


def edt_reference(logits: NDArray[np.floating], sampling: Sampling) -> NDArray[np.float64]:
    temperature = sampling.temperature * sampling.edt_base ** (sampling.edt_theta / shannon(softmax(logits)))
    return softmax(logits.astype(np.float64) / temperature)


@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("eps", [1e-5, 3e-4, 0.01, 0.3, 1.0])
def test_eta_keeps_what_the_paper_keeps(spread: float, eps: float) -> None:
    random = np.random.default_rng(5)
    for size in (1, 2, 64, 5000):
        logits = (random.standard_normal(size) * spread).astype(np.float32)
        assert set(np.flatnonzero(eta_kept(logits, eps)).tolist()) == eta_reference(logits, eps)


@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0])
@pytest.mark.parametrize("theta", [0.1, 1.0, 5.0])
def test_the_temperature_follows_the_entropy_as_in_the_paper(spread: float, theta: float) -> None:
    random = np.random.default_rng(6)
    sampling = Sampling(temperature=1.3, edt_theta=theta)
    for size in (2, 64, 5000):
        logits = (random.standard_normal(size) * spread).astype(np.float32)
        now = edt_temperature(entropy(softmax(logits)), 1.3, theta, 0.8)
        assert np.allclose(softmax(tempered(logits, now)), edt_reference(logits, sampling), rtol=1e-5, atol=1e-7)


def test_where_nothing_is_uncertain_the_temperature_is_that_of_greedy() -> None:
    logits = np.array([3.0, 500.0, 1.0, -math.inf], np.float32)
    now = edt_temperature(entropy(softmax(logits)), 1.0, 1.0, 0.8)
    assert softmax(tempered(logits, now)).tolist() == [0, 1, 0, 0]
    assert softmax(tempered(np.array([1.0, 1.0], np.float32), now)).tolist() == [0.5, 0.5]
    assert edt_temperature(0.0, 1.5, 1.0, 1.0) == 1.5


def test_masked_candidates_stay_masked() -> None:
    logits = np.array([-math.inf, 0.5, -math.inf, 0.4], np.float32)
    assert eta_kept(logits, 0.01).tolist() == [False, True, False, True]
    assert tempered(logits, 0.5)[[0, 2]].tolist() == [-math.inf, -math.inf]
    nothing = np.full(3, -math.inf, np.float32)
    assert eta_kept(nothing, 0.01).any()
    assert tempered(nothing, 0.5).tolist() == nothing.tolist()


# --- through the chain --------------------------------------------------------------------------------------------


def logits_of(executor: Executor, pieces: list[TokenPiece]) -> NDArray[np.float64]:
    """The model's own distribution after a prompt, as log-probabilities."""
    executor.step(Step(trims=(Trim(0, 0),)))
    executor.open(0, SlotOptions(sampling=GREEDY.sampling, logprobs=10**9))
    found = prefill(executor, 0, pieces).logprob
    assert found is not None
    logits = np.empty(executor.info.vocab_size)
    for token, _, value in found.top:
        logits[token] = value
    return logits


def draws(executor: Executor, pieces: list[TokenPiece], sampling: Sampling) -> Counter[int]:
    """First tokens under many seeds; only the last token of the prompt is computed again."""
    found: Counter[int] = Counter()
    keep = length(pieces) - 1
    for seed in range(DRAWS):
        executor.step(Step(trims=(Trim(0, keep),)))
        executor.open(0, SlotOptions(sampling=changed(sampling, seed=seed)))
        found[prefill(executor, 0, [TokenPiece(ids_of(pieces)[keep:])], keep).token] += 1
    return found


def assert_drawn_from(found: Counter[int], expected: NDArray[np.float64]) -> None:
    """Chi-square over cells of at least 5 draws; the bound lies five standard deviations beyond the mean."""
    assert all(expected[token] > 0 for token in found)
    counts = expected * DRAWS
    large = [token for token in range(len(expected)) if counts[token] >= 5]
    rest = DRAWS - counts[large].sum()
    cells = [(found[token], counts[token]) for token in large]
    if rest >= 5:
        cells.append((DRAWS - sum(found[token] for token in large), rest))
    statistic = sum((seen - meant) ** 2 / meant for seen, meant in cells)
    freedom = len(cells) - 1
    assert freedom >= 1
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)


def restricted(logits: NDArray[np.float64], kept: set[int]) -> NDArray[np.float64]:
    shares = np.zeros(len(logits))
    for token in kept:
        shares[token] = math.exp(logits[token])
    return shares / shares.sum()


def test_tokens_are_drawn_from_what_eta_leaves(executor: Executor) -> None:
    pieces = [TokenPiece(ids_of(executor.encode([Text("hello world")])))]
    logits = logits_of(executor, pieces)
    kept = eta_reference(logits, ETA.eta_cutoff)
    assert 1 < len(kept) < executor.info.vocab_size
    assert_drawn_from(draws(executor, pieces, ETA), restricted(logits, kept))


def test_tokens_are_drawn_at_the_temperature_of_the_entropy(executor: Executor) -> None:
    pieces = [TokenPiece(ids_of(executor.encode([Text("hello world")])))]
    logits = logits_of(executor, pieces)
    expected = edt_reference(logits, EDT)
    found = draws(executor, pieces, EDT)
    assert_drawn_from(found, expected)
    plain = softmax(logits / EDT.temperature)
    with pytest.raises(AssertionError):
        assert_drawn_from(found, plain)


@pytest.mark.parametrize("sampling", [ETA, EDT, BOTH, changed(EDT, mirostat=2)])
def test_they_change_the_draws_and_stay_repeatable(executor: Executor, sampling: Sampling) -> None:
    pieces = executor.encode([Text("hello world the cat")])
    off = changed(sampling, eta_cutoff=0.0, edt_theta=0.0)
    one, again, other = (
        tokens_of(reply(executor, pieces, SlotOptions(sampling=choice), limit=24))
        for choice in (sampling, sampling, off)
    )
    assert one == again != other


def test_a_prompt_of_its_own_temperature_is_greedy_when_theta_is_huge(executor: Executor) -> None:
    pieces = executor.encode([Text("hello world the cat")])
    cold = changed(edt_theta=1000.0)
    assert tokens_of(reply(executor, pieces, SlotOptions(sampling=cold))) == tokens_of(reply(executor, pieces))


@pytest.mark.parametrize(
    "changes", [{"edt_base": 0.5}, {"eta_cutoff": 0.0, "edt_theta": 0.0}, {"eta_cutoff": 0.0}, {"edt_theta": 0.0}]
)
def test_what_is_off_changes_nothing(executor: Executor, changes: dict[str, float]) -> None:
    """Also bit for bit: no log-probability and no draw moves."""
    pieces = executor.encode([Text("hello world the cat")])
    for base in (PLAIN, Sampling(seed=3), changed(mirostat=2)):
        plain, same = (
            reply(executor, pieces, SlotOptions(sampling=sampling, logprobs=3), limit=16)
            for sampling in (base, changed(base, **changes))
        )
        assert plain == same


@pytest.mark.parametrize("sampling", [ETA, EDT, BOTH])
@pytest.mark.parametrize("grammar", [None, Grammar("gbnf", "root ::= [abcdefgh]{40}")])
def test_a_history_is_replayed_exactly(executor: Executor, sampling: Sampling, grammar: Grammar | None) -> None:
    """As after the death of a worker."""
    pieces = executor.encode([Text("hello world")])
    whole = tokens_of(reply(executor, pieces, SlotOptions(sampling=sampling, grammar=grammar), limit=12))
    assert len(set(whole)) > 1
    for cut in (1, 5, len(whole) - 1):
        executor.step(Step(trims=(Trim(0, 0),)))
        executor.open(0, SlotOptions(sampling=sampling, grammar=grammar, history=whole[:cut]))
        assert prefill(executor, 0, [TokenPiece((*ids_of(pieces), *whole[:cut]))]).token == whole[cut]


def test_slots_of_one_batch_do_not_disturb_one_another(executor: Executor) -> None:
    prompts = [executor.encode([Text(text)]) for text in ("hello world", "the cat the dog")]
    options = [SlotOptions(sampling=EDT, logprobs=2), SlotOptions(sampling=BOTH)]
    alone = [tokens_of(reply(executor, *one, limit=16)) for one in zip(prompts, options, strict=True)]
    firsts: dict[int, tuple[Sampled, int]] = {}
    for slot, (pieces, one) in enumerate(zip(prompts, options, strict=True)):
        executor.step(Step(trims=(Trim(slot, 0),)))
        executor.open(slot, one)
        firsts[slot] = prefill(executor, slot, pieces), length(pieces)
    together = decode_on(executor, firsts, 16)
    assert [tokens_of(together[slot]) for slot in (0, 1)] == alone


def test_log_probabilities_are_those_of_the_model(executor: Executor) -> None:
    """Before any of it, as with the other truncations."""
    pieces = executor.encode([Text("hello world")])
    own = reply(executor, pieces, SlotOptions(sampling=BOTH, logprobs=4), limit=1)[0].logprob
    plain = reply(executor, pieces, SlotOptions(sampling=PLAIN, logprobs=4), limit=1)[0].logprob
    assert own is not None
    assert plain is not None
    assert own.top == plain.top


@pytest.mark.parametrize(
    "changes",
    [
        {"eta_cutoff": -0.1},
        {"eta_cutoff": 1.5},
        {"eta_cutoff": math.nan},
        {"edt_theta": -1.0},
        {"edt_theta": math.inf},
        {"edt_base": 0.0},
        {"edt_base": 1.1},
        {"edt_theta": 1.0, "dynatemp_range": 0.5},
    ],
)
def test_values_that_mean_nothing_are_refused_by_name(executor: Executor, changes: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=next(iter(changes))):
        executor.open(0, SlotOptions(sampling=changed(**changes)))
