"""Samplers of llama.cpp as slots use them. The tiny model repeats itself, which penalties can be seen to end."""

import math
from pathlib import Path

import msgspec
import pytest
from llamacpp_models import SMALL, Load

from gemma_mcp.engine.backend import Executor, SlotOptions, Step, TokenPiece, TokenRow, Trim
from gemma_mcp.errors import RequestError, restore
from gemma_mcp.testing.generation import GREEDY, ids_of, prefill, reply, tokens_of
from gemma_mcp.types import Grammar, Sampling, Text

HOT = Sampling(temperature=2.0, top_k=0, top_p=1.0, seed=11)


def changed(base: Sampling = HOT, /, **changes: object) -> Sampling:
    return msgspec.structs.replace(base, **changes)


@pytest.fixture
def executor(load: Load, tiny: Path) -> Executor:
    return load(tiny / "gemma3.gguf", SMALL)


def run(executor: Executor, sampling: Sampling, limit: int = 24) -> tuple[int, ...]:
    pieces = executor.encode([Text("hello world the cat")])
    return tokens_of(reply(executor, pieces, SlotOptions(sampling=sampling), limit=limit))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(top_k=1, seed=1),
        Sampling(top_k=0, top_p=0.0, seed=1),
        Sampling(top_k=0, top_p=1.0, min_p=1.0, seed=1),
        Sampling(temperature=1e-3, seed=1),
    ],
)
def test_truncation_to_one_token_is_greedy(executor: Executor, sampling: Sampling) -> None:
    assert run(executor, sampling) == run(executor, GREEDY.sampling)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 4.0},
        {"top_k": 5},
        {"top_p": 0.3},
        {"min_p": 0.5},
        {"typical_p": 0.2},
        {"repeat_penalty": 1.8},
        {"frequency_penalty": 2.0},
        {"presence_penalty": 2.0},
        {"xtc_probability": 1.0, "xtc_threshold": 0.0005},
        {"mirostat": 1},
        {"mirostat": 2},
        {"mirostat": 2, "mirostat_tau": 1.0, "mirostat_eta": 0.5},
        {"dynatemp_range": 1.5},
        {"dynatemp_range": 1.5, "dynatemp_exponent": 3.0},
        {"seed": 12},
    ],
)
def test_each_setting_changes_the_draws_and_stays_repeatable(executor: Executor, changes: dict[str, object]) -> None:
    sampling = changed(**changes)
    first = run(executor, sampling)
    assert first == run(executor, sampling)
    assert first != run(executor, HOT)


def test_without_a_seed_replies_vary(executor: Executor) -> None:
    sampling = Sampling(temperature=5.0, top_k=0, top_p=1.0)
    assert len({run(executor, sampling) for _ in range(3)}) > 1


@pytest.mark.parametrize("seed", [-1, 0, 2**32 - 1, 2**32, 2**63])
def test_any_integer_is_a_seed(executor: Executor, seed: int) -> None:
    sampling = Sampling(temperature=5.0, top_k=0, top_p=1.0, seed=seed)
    assert run(executor, sampling) == run(executor, sampling)


@pytest.mark.parametrize(
    "changes",
    [
        {"frequency_penalty": 3.0},
        {"presence_penalty": 3.0, "repeat_last_n": -1},
        {"repeat_penalty": 3.0, "repeat_last_n": 1000},
        {"dry_multiplier": 5.0, "dry_allowed_length": 1},
        {"dry_multiplier": 5.0, "dry_allowed_length": 1, "dry_last_n": 20, "dry_breakers": ()},
    ],
)
def test_penalties_end_repetition_under_greedy_sampling_too(executor: Executor, changes: dict[str, object]) -> None:
    plain = run(executor, GREEDY.sampling, 48)
    varied = run(executor, changed(GREEDY.sampling, **changes), 48)
    assert len(set(varied)) > len(set(plain))


def test_a_penalty_over_no_tokens_is_none(executor: Executor) -> None:
    sampling = Sampling(temperature=0, frequency_penalty=3.0, repeat_last_n=0)
    assert run(executor, sampling) == run(executor, GREEDY.sampling)


def test_a_bias_can_force_a_token(executor: Executor) -> None:
    token = ids_of(executor.encode([Text("dog")]))[-1]
    assert set(run(executor, Sampling(temperature=0, logit_bias=((token, 1000.0),)))) == {token}


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"typical_p": 2.0},
        {"repeat_penalty": 0.0},
        {"frequency_penalty": math.inf},
        {"dry_base": 0.5},
        {"dry_breakers": ("x",) * 17},
        {"xtc_probability": 2.0},
        {"logit_bias": ((10**9, 1.0),)},
        {"logit_bias": ((-1, 1.0),)},
        {"logit_bias": ((5, math.nan),)},
        {"logit_bias": ((5, math.inf),)},
    ],
)
def test_values_that_mean_nothing_are_refused_by_name(executor: Executor, changes: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=next(iter(changes))):
        executor.open(0, SlotOptions(sampling=changed(**changes)))


def test_huge_counts_mean_all(executor: Executor) -> None:
    wide = changed(top_k=10**15, repeat_last_n=10**15, presence_penalty=1.0)
    assert run(executor, wide) == run(executor, changed(repeat_last_n=-1, presence_penalty=1.0))


def test_logprobs_of_nothing_but_the_chosen_token(executor: Executor) -> None:
    pieces = executor.encode([Text("hello")])
    token = reply(executor, pieces, SlotOptions(sampling=GREEDY.sampling, logprobs=0), limit=1)[0]
    assert token.logprob is not None
    assert token.logprob.top == ()
    whole = reply(executor, pieces, SlotOptions(sampling=GREEDY.sampling, logprobs=10**9), limit=1)[0]
    assert whole.logprob is not None
    assert len(whole.logprob.top) == executor.info.vocab_size
    assert math.fsum(math.exp(value) for _, _, value in whole.logprob.top) == pytest.approx(1)
    assert whole.logprob.logprob == pytest.approx(token.logprob.logprob)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_history_with_a_grammar_is_replayed_exactly(executor: Executor, penalty: float) -> None:
    pieces = executor.encode([Text("hello world")])
    grammar = Grammar("gbnf", "root ::= [abcd]{30}")
    sampling = changed(frequency_penalty=penalty)
    whole = tokens_of(reply(executor, pieces, SlotOptions(sampling=sampling, grammar=grammar), limit=16))
    assert len(set(whole)) > 1
    for cut in (1, 5, len(whole) - 1):
        executor.step(Step(trims=(Trim(0, 0),)))
        executor.open(0, SlotOptions(sampling=sampling, grammar=grammar, history=whole[:cut]))
        resumed = prefill(executor, 0, [TokenPiece((*ids_of(pieces), *whole[:cut]))])
        assert resumed.token == whole[cut]


def test_a_history_against_its_grammar_is_refused(executor: Executor) -> None:
    history = ids_of(executor.encode([Text("dog")]))[1:]
    options = SlotOptions(sampling=GREEDY.sampling, grammar=Grammar("gbnf", 'root ::= "cat"'), history=history)
    with pytest.raises(RequestError, match="history"):
        executor.open(0, options)


def test_a_grammar_against_the_bias_is_an_error_of_its_row_alone(executor: Executor) -> None:
    """Nothing that the grammar allows is left by the bias; llama.cpp would abort."""
    dog = ids_of(executor.encode([Text("dog")]))[-1]
    others = (token for token in range(executor.info.vocab_size) if token != dog)
    banned = Sampling(temperature=0, logit_bias=tuple((token, -math.inf) for token in others))
    pieces = executor.encode([Text("hello")])
    options = SlotOptions(sampling=banned, grammar=Grammar("gbnf", 'root ::= "a" | "b"'))
    executor.open(0, options)
    executor.open(1, GREEDY)
    result = executor.step(Step(rows=tuple(TokenRow(slot, 0, ids_of(pieces), True) for slot in (0, 1))))
    stuck, neighbour = result.outputs
    assert stuck.error is not None
    assert isinstance(restore(stuck.error), RequestError)
    assert "grammar allows no token" in stuck.error["message"]
    assert neighbour.tokens[0].token == reply(executor, pieces, limit=3)[0].token
