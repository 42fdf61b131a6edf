"""What a model needs, from its header: by hand where it is small, as measured where it is real, and monotonic."""

from dataclasses import replace

import pytest
from headers import F16, F32, gemma3, gemma4, header_of, shape
from hypothesis import given
from hypothesis import strategies as st

from gemma_mcp.models.gguf import Array, GgufHeader
from gemma_mcp.models.memory import LOOKED_UP_TOKENS, Encoder, Terms, encoder_of, estimate, kv_cells
from gemma_mcp.models.shape import Shape, shape_of

MIB = 1 << 20
SMALL = gemma3(6, 128, 256, 4, 1, 64, 128, vocabulary=1024, kind=F16, table=F16)
REAL = {
    "3-270m": gemma3(18, 640, 2048, 4, 1, 256, 512),
    "3-1b": gemma3(26, 1152, 6912, 4, 1, 256, 512),
    "3-4b": gemma3(34, 2560, 10240, 8, 4, 256, 1024),
    "3-12b": gemma3(48, 3840, 15360, 16, 8, 256, 1024),
    "3-27b": gemma3(62, 5376, 21504, 32, 16, 128, 1024),
    "4-e2b": gemma4(35, 1536, [6144] * 15 + [12288] * 20, 8, (1, 1), 512, every=5, shared=20, per_layer=256),
    "4-e4b": gemma4(42, 2560, 10240, 8, (2, 2), 512, shared=18, per_layer=256),
    "4-12b": gemma4(48, 3840, 15360, 16, (1, 8), 1024),
    "4-26b": gemma4(30, 2816, 2112, 16, (2, 8), 1024, experts_used=8),
    "4-31b": gemma4(60, 5376, 21504, 32, (4, 16), 1024),
}
PLAIN = Terms(context=8192, slots=1, step_tokens=512)


def test_the_kv_cache_of_a_small_model_is_what_a_hand_computes() -> None:
    small = shape(SMALL)
    terms = Terms(context=1000, slots=2, step_tokens=512)
    full, window = 2048, 768  # 2 x 1000, and 2 x 128 + 512, rounded up to 256
    assert kv_cells(small, terms) == (full, window)
    assert [layer.windowed for layer in small.layers] == [True] * 5 + [False]
    assert estimate(small, terms).host.kv_bytes == (full + 5 * window) * (64 + 64) * 2
    quantised = estimate(small, replace(terms, kv_type="q8_0")).host.kv_bytes
    assert quantised == (full + 5 * window) * (64 + 64) // 32 * 34
    assert estimate(small, replace(terms, swa_full=True)).host.kv_bytes == 6 * full * (64 + 64) * 2


def test_the_weights_of_a_small_model_are_what_a_hand_computes() -> None:
    small = shape(SMALL)
    layer = (128 * 256 + 2 * 128 * 64 + 256 * 128 + 3 * 128 * 256) * 2
    table, norm = 1024 * 128 * 2, 128 * 4
    assert [one.weight_bytes for one in small.layers] == [layer] * 6
    assert estimate(small, PLAIN).host.weight_bytes == small.weight_bytes == 6 * layer + table + norm


def test_a_table_that_is_only_looked_up_counts_for_the_rows_that_are_read() -> None:
    tied = gemma3(1, 256, 256, 4, 1, 64, 128, kind=F16, table=F16)
    tensors = [(one.name, one.shape, one.kind) for one in tied.tensors]
    keys = {key.removeprefix("gemma3."): value for key, value in tied.metadata.items() if key.startswith("gemma3.")}
    untied = header_of("gemma3", keys, [*tensors, ("output.weight", (256, 262_144), F16)])
    one, two = (estimate(shape(header), PLAIN).host.weight_bytes for header in (tied, untied))
    assert two - one == 262_144 * 256 * 2 * LOOKED_UP_TOKENS // 262_144


def test_the_table_of_the_layers_inputs_counts_for_the_rows_that_are_read() -> None:
    e2b = shape(REAL["4-e2b"])
    assert e2b.layer_table_bytes == 262_144 * 35 * 256 // 32 * 34
    saved = e2b.weight_bytes - estimate(e2b, PLAIN).host.weight_bytes
    assert saved == pytest.approx(e2b.layer_table_bytes * (1 - LOOKED_UP_TOKENS / 262_144), abs=1)


@pytest.mark.parametrize(
    ("name", "mebibytes"),
    [
        ("3-1b", 54),
        ("3-4b", 334),
        ("3-12b", 992),
        ("4-e2b", 60),
        ("4-e4b", 168),
        ("4-12b", 608),
        ("4-26b", 460),
        ("4-31b", 1840),
    ],
)
def test_the_kv_cache_of_real_models_is_what_is_known_of_them(name: str, mebibytes: int) -> None:
    assert estimate(shape(REAL[name]), PLAIN).host.kv_bytes == mebibytes * MIB


COMPUTE = {
    "3-270m": (215.08, 113.08, 52.25, 351.08, 94.76),
    "3-1b": (341.08, 239.08, 83.77, 477.08, 97.76),
    "3-4b": (468.08, 360.08, 115.52, 612.08, 184.01),
    "3-12b": (634.08, 526.08, 157.02, 778.08, 335.51),
    "3-27b": (814.08, 706.08, 202.02, 958.08, 600.51),
    "4-e2b": (582.09, 480.09, 144.02, 718.09, 217.51),
    "4-e4b": (592.09, 490.09, 146.52, 728.09, 214.51),
    "4-12b": (666.08, 558.08, 165.02, 810.08, 351.51),
    "4-26b": (536.08, 428.08, 132.52, 680.08, 357.64),
    "4-31b": (846.08, 738.08, 210.02, 990.08, 664.51),
}
"""MiB that llama.cpp b11312 reserves on a CPU, by its log, for the terms of the test below."""


@pytest.mark.parametrize("name", COMPUTE)
def test_the_compute_buffer_is_within_a_tenth_of_what_llama_cpp_reserves(name: str) -> None:
    terms = [
        Terms(context=8192, slots=4, step_tokens=2048),
        Terms(context=8192, slots=1, step_tokens=2048),
        Terms(context=8192, slots=4, step_tokens=512),
        Terms(context=8192, slots=8, step_tokens=2048),
        Terms(context=2048, slots=4, step_tokens=512, flash_attention=False),
    ]
    model = shape(REAL[name])
    widest = max(max(layer.feed_forward, layer.queries) for layer in model.layers)
    for one, measured in zip(terms, COMPUTE[name], strict=True):
        logits, work = one.slots * model.vocabulary * 4, one.step_tokens * widest * 1.15
        assert estimate(model, one).host.compute_bytes - logits - work == pytest.approx(measured * MIB, rel=0.1)


def test_without_flash_attention_values_are_padded_to_the_widest_layer() -> None:
    model = shape(REAL["4-12b"])
    terms = replace(PLAIN, context=1024)
    plain = estimate(model, terms).host.kv_bytes
    padded = estimate(model, replace(terms, flash_attention=False)).host.kv_bytes
    assert padded - plain == 8 * 1024 * (8 * 256 - 512) * 2


def test_no_slot_is_given_more_than_the_model_was_made_for() -> None:
    model = shape(REAL["3-1b"])
    assert estimate(model, replace(PLAIN, context=1 << 20)) == estimate(model, replace(PLAIN, context=32768))


def test_an_encoder_counts_with_its_largest_image() -> None:
    keys = {"image_size": 896, "patch_size": 14, "embedding_length": 1152, "feed_forward_length": 4304}
    metadata = {f"clip.vision.{key}": value for key, value in keys.items()}
    tensor = header_of("clip", {}, [("v.patch_embd.weight", (14, 14, 3, 1152), F32)]).tensors
    encoder = encoder_of(GgufHeader(3, {**metadata, "clip.projector_type": "gemma3"}, tensor, 0))
    assert encoder.weight_bytes == 14 * 14 * 3 * 1152 * 4
    assert encoder.compute_bytes == pytest.approx(190 * MIB, rel=0.1)  # measured for these sizes, picture and all
    assert encoder.most_tokens == 256
    with_images = estimate(shape(SMALL), PLAIN, encoder).host.total_bytes
    assert with_images - estimate(shape(SMALL), PLAIN).host.total_bytes == encoder.weight_bytes + encoder.compute_bytes


def test_a_pass_is_large_enough_for_an_image() -> None:
    metadata = {"clip.vision.image_size": 768, "clip.vision.patch_size": 16, "clip.projector_type": "gemma4v"}
    encoder = encoder_of(GgufHeader(3, metadata, (), 0))
    assert encoder.most_tokens == 1120
    large, small = (replace(PLAIN, step_tokens=tokens) for tokens in (1120, 64))
    assert estimate(shape(SMALL), small, encoder) == estimate(shape(SMALL), large, encoder)


@pytest.mark.parametrize(
    "missing", ["gemma3.block_count", "gemma3.embedding_length", "gemma3.attention.head_count", "token_embd.weight"]
)
def test_a_header_that_lacks_what_it_takes_has_no_shape(missing: str) -> None:
    metadata = {key: value for key, value in SMALL.metadata.items() if key != missing}
    tensors = tuple(tensor for tensor in SMALL.tensors if tensor.name != missing)
    assert shape_of(GgufHeader(3, metadata, tensors, 0)) is None


def test_numbers_of_a_header_that_are_absurd_do_not_break_it() -> None:
    for count in (-1, 0, 1 << 31):
        assert shape_of(GgufHeader(3, {**SMALL.metadata, "gemma3.block_count": count}, SMALL.tensors, 0)) is None
    short = {**SMALL.metadata, "gemma3.feed_forward_length": Array(2, (256, 512))}
    assert [layer.feed_forward for layer in shape(GgufHeader(3, short, SMALL.tensors, 0)).layers][:3] == [256, 512, 0]


models = st.sampled_from(sorted(REAL)).map(lambda name: shape(REAL[name]))
terms = st.builds(
    Terms,
    context=st.integers(128, 1 << 17),
    slots=st.integers(1, 64),
    step_tokens=st.integers(64, 16384),
    kv_type=st.sampled_from(["f16", "q8_0"]),
    gpu_layers=st.integers(-1, 64),
    flash_attention=st.booleans(),
    swa_full=st.booleans(),
)


def both(model: Shape, one: Terms, encoder: Encoder | None = None) -> tuple[int, int]:
    found = estimate(model, one, encoder)
    return found.host.total_bytes, found.gpu.total_bytes


@given(models, terms, st.integers(0, 1 << 16), st.integers(0, 8), st.integers(0, 4096))
def test_more_of_anything_never_needs_less(model: Shape, one: Terms, tokens: int, slots: int, step_tokens: int) -> None:
    before = both(model, one)
    for more in (
        replace(one, context=one.context + tokens),
        replace(one, slots=one.slots + slots),
        replace(one, step_tokens=one.step_tokens + step_tokens),
        replace(one, kv_type="f16"),
        replace(one, swa_full=True),
        replace(one, flash_attention=False),
    ):
        after = both(model, more)
        assert after[0] >= before[0]
        assert after[1] >= before[1]


@given(models, terms, st.integers(0, 80))
def test_a_layer_on_the_gpu_relieves_the_machine(model: Shape, one: Terms, layers: int) -> None:
    fewer, more = (both(model, replace(one, gpu_layers=count)) for count in (layers, layers + 1))
    assert more[1] >= fewer[1]
    assert layers == 0 or more[0] <= fewer[0]
    everything = estimate(model, replace(one, gpu_layers=-1))
    assert everything == estimate(model, replace(one, gpu_layers=len(model.layers) + 1))
    assert everything.host.kv_bytes == 0
