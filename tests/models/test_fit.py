"""Which terms are chosen for the memory that is free, what is given up first, and what a refusal says."""

from dataclasses import replace

import pytest
from headers import gemma3, shape
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_mcp.models.fit import FLOOR_TOKENS, Fit, Free, Model, Wish, best_fit, in_units, least_fit, nearest_fit
from gemma_mcp.models.memory import Terms, estimate
from gemma_mcp.models.wish import too_large, wish_of
from gemma_mcp.settings import LlamaCppSettings

MODEL = Model("gemma-3-4b", shape(gemma3(34, 2560, 10240, 8, 4, 256, 1024)))
TERMS = Terms(context=8192, slots=4, step_tokens=2048, gpu_layers=-1)
OPEN = Wish(TERMS, any_slots=True, any_kv=True, any_layers=True, any_context=True)


def host(**changes: object) -> int:
    """What the model needs without a GPU under changed terms."""
    return estimate(MODEL.shape, replace(TERMS, gpu_layers=0, **changes)).host.total_bytes  # pyright: ignore[reportArgumentType]


def fit(wish: Wish, free: Free | None) -> Fit:
    found = best_fit(MODEL, wish, free)
    assert found is not None
    return found


def test_all_that_is_wished_for_is_given_where_it_fits_to_the_byte() -> None:
    exact = fit(OPEN, Free(host()))
    assert (exact.terms, exact.given_up) == (TERMS, ())
    assert exact.total_bytes == host()
    assert fit(OPEN, Free(host() - 1)).terms != TERMS


def test_slots_are_given_up_first() -> None:
    one = fit(OPEN, Free(host() - 1))
    assert (one.terms, one.given_up) == (replace(TERMS, slots=3), ("3 instead of 4 slots",))
    assert fit(OPEN, Free(host(slots=1))).terms == replace(TERMS, slots=1)


def test_the_kv_cache_is_quantised_next_if_that_is_allowed() -> None:
    short = Free(host(slots=1) - 1)
    quantised = fit(OPEN, short)
    assert (quantised.terms.kv_type, quantised.terms.context) == ("q8_0", 8192)
    assert "KV cache in q8_0" in quantised.given_up
    exact = fit(replace(OPEN, any_kv=False), short).terms
    assert (exact.kv_type, exact.context) == ("f16", 7168)


def test_a_quantised_cache_gives_slots_back() -> None:
    assert fit(OPEN, Free(host(slots=1) - 1)).terms.slots > 1


def test_context_is_given_up_last_and_never_below_the_floor() -> None:
    least = host(slots=1, kv_type="q8_0", context=FLOOR_TOKENS)
    last = fit(OPEN, Free(least))
    assert last.terms == replace(TERMS, slots=1, kv_type="q8_0", context=FLOOR_TOKENS)
    assert last.given_up == ("1 instead of 4 slots", "KV cache in q8_0", "2,048 instead of 8,192 tokens")
    assert best_fit(MODEL, OPEN, Free(least - 1)) is None
    assert least_fit(MODEL, OPEN, Free(0)) == last


def test_what_the_user_set_is_kept_or_nothing_fits() -> None:
    fixed = Wish(TERMS)
    assert fit(fixed, Free(host())).terms == TERMS
    assert best_fit(MODEL, fixed, Free(host() - 1)) is None
    only_slots = fit(Wish(TERMS, any_slots=True), Free(host() - 1))
    assert (only_slots.terms.slots, only_slots.terms.context) == (3, 8192)


def test_a_context_that_the_model_does_not_have_is_no_sacrifice() -> None:
    short = replace(MODEL, shape=replace(MODEL.shape, context_length=2048))
    found = best_fit(short, OPEN, Free(1 << 40))
    assert found is not None
    assert (found.terms.context, found.given_up) == (2048, ())


def test_layers_leave_the_gpu_before_the_context_shrinks() -> None:
    all_there = estimate(MODEL.shape, replace(TERMS, slots=1)).gpu.total_bytes
    plenty = 1 << 40
    everything = fit(OPEN, Free(plenty, all_there))
    assert (everything.terms.gpu_layers, everything.terms.slots, everything.terms.kv_type) == (-1, 1, "f16")
    half = fit(OPEN, Free(plenty, all_there * 2 // 3))
    assert 0 < half.terms.gpu_layers < len(MODEL.shape.layers)
    assert half.terms.context == 8192
    assert f"{half.terms.gpu_layers} layers on the GPU" in half.given_up
    assert fit(OPEN, Free(plenty, 0)).terms.gpu_layers == 0


def test_without_a_gpu_no_layer_is_missed() -> None:
    assert fit(OPEN, Free(host())).terms.gpu_layers == -1


def test_a_gpu_that_shares_the_machines_memory_is_counted_once() -> None:
    need = estimate(MODEL.shape, TERMS)
    both = need.host.total_bytes + need.gpu.total_bytes
    assert fit(Wish(TERMS), Free(both, both, shared=True)).terms == TERMS
    assert best_fit(MODEL, Wish(TERMS), Free(both - 1, both, shared=True)) is None
    assert fit(Wish(TERMS), Free(both - 1, both)).terms == TERMS


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 12 << 30), st.integers(0, 12 << 30), st.booleans())
def test_a_fit_fits_and_more_memory_never_gives_less(less: int, more: int, shared: bool) -> None:
    small, large = sorted((less, more))
    for gpu in (None, small // 2):
        one = best_fit(MODEL, OPEN, Free(small, gpu, shared))
        other = best_fit(MODEL, OPEN, Free(large, gpu, shared))
        if one is not None:
            assert Free(small, gpu, shared).holds(one.estimate)
            assert other is not None
            assert other.terms.context >= one.terms.context


def test_a_refusal_has_the_numbers_and_the_nearest_fit_as_settings() -> None:
    wish = Wish(replace(TERMS, context=32768, slots=8))
    free = Free(host(slots=2) + 1)
    error = too_large(MODEL, wish, free)
    need = estimate(MODEL.shape, replace(wish.terms, gpu_layers=0)).host
    nearest = nearest_fit(MODEL, wish, free)
    assert nearest is not None
    assert error.message == (
        f"The model 'gemma-3-4b' does not fit into memory: it needs {in_units(need.total_bytes)} "
        f"(weights {in_units(need.weight_bytes)}, KV cache {in_units(need.kv_bytes)}, "
        f"compute buffers {in_units(need.compute_bytes)}, process {in_units(need.process_bytes)}); "
        f"{in_units(free.host_bytes)} can be had."
    )
    assert error.hint == (
        f'This fits: llamacpp.slots = 1, llamacpp.kv_type = "q8_0" (needs {in_units(nearest.total_bytes)}).'
    )
    assert free.holds(nearest.estimate)


def test_the_nearest_fit_of_a_giant_wish_is_found_without_trying_everything() -> None:
    wish = Wish(replace(TERMS, context=131_072, slots=64))
    free = Free(host(), 1 << 30)
    error = too_large(replace(MODEL, shape=replace(MODEL.shape, context_length=131_072)), wish, free)
    assert "llamacpp.slots = " in error.hint
    assert "llamacpp.gpu_layers = " in error.hint


def test_a_model_that_fits_under_no_settings_is_said_to_be_too_large() -> None:
    error = too_large(MODEL, OPEN, Free(1 << 30, 1 << 28))
    assert "1.0 GiB can be had, and 256 MiB on the GPU." in error.message
    assert error.hint.startswith("Choose a smaller model file or close other programs")


def test_the_settings_say_what_may_be_given_up() -> None:
    common = {"threads": 0, "gpu_layers": -1, "step_tokens": 2048, "prefill_chunk": 256, "flash_attention": True}
    common |= {"checkpoint_bytes": 0, "decode_stretch": 2.7, "speculate": True}
    chosen = LlamaCppSettings.model_validate({**common, "context": 0, "slots": 0, "kv_type": "auto"})
    assert wish_of(chosen) == OPEN
    fixed = LlamaCppSettings.model_validate({**common, "gpu_layers": 0, "context": 4096, "slots": 2, "kv_type": "q8_0"})
    terms = Terms(context=4096, slots=2, step_tokens=2048, kv_type="q8_0", gpu_layers=0)
    assert wish_of(fixed) == Wish(terms)


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (3 << 20, "3 MiB"), (3 << 29, "1.5 GiB")])
def test_bytes_are_written_for_people(count: int, text: str) -> None:
    assert in_units(count) == text
