import dataclasses
import io
import random
from pathlib import Path

import gguf
import pytest
from gemma_mcp_llamacpp import LlamaCppBackend

from gemma_mcp.bench.bandwidth import token_bytes
from gemma_mcp.bench.endings import ending_bias
from gemma_mcp.bench.gguf_draft import F16, PlannedTensor, write_gguf
from gemma_mcp.bench.prompts import Prompts, words_of
from gemma_mcp.bench.shapes import SHAPES, Shape
from gemma_mcp.bench.synthetic import synthetic_model
from gemma_mcp.bench.vocabulary import synthetic_tokens, synthetic_words
from gemma_mcp.engine.backend import Executor, LoadOptions, ModelSpec, SlotOptions, Step, TokenPiece, TokenRow
from gemma_mcp.errors import BackendError, RequestError
from gemma_mcp.models.gemma import read_model
from gemma_mcp.places import Places
from gemma_mcp.types import Sampling, Text

OPTIONS = LoadOptions(threads=1, slots=1, context_length=1024, step_tokens=256)


def ids_of(executor: Executor, text: str) -> tuple[int, ...]:
    pieces = executor.encode((Text(text),))
    return tuple(token for piece in pieces if isinstance(piece, TokenPiece) for token in piece.ids)


def test_llama_cpp_loads_such_a_file_takes_each_word_for_a_token_and_never_ends_a_reply(tiny: Path) -> None:
    executor = LlamaCppBackend().load(
        ModelSpec(name="tiny", format="gguf", path=str(tiny)), OPTIONS, lambda share: None
    )
    try:
        text = Prompts(words_of(read_model(tiny)), seed=1).text(200, "any")
        ids = ids_of(executor, text)
        assert len(ids) == 200 + 1  # and the beginning of the sequence
        executor.open(0, SlotOptions(sampling=Sampling(temperature=0.0)))
        row, position = ids, 0
        for _ in range(64):
            sampled = executor.step(Step(rows=(TokenRow(0, position, row, True),))).outputs[0].tokens[0]
            assert not sampled.end
            assert sampled.piece
            row, position = (sampled.token,), position + len(row)
    finally:
        executor.close()


def test_llama_cpps_own_reader_finds_the_shapes_and_the_quantised_weights(tiny: Path, shape: Shape) -> None:
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tiny).tensors}
    assert {name: tuple(map(int, tensor.shape)) for name, tensor in tensors.items()} == {
        tensor.name: tensor.shape for tensor in shape.tensors()
    }
    assert tensors["blk.0.ffn_up.weight"].tensor_type == gguf.GGMLQuantizationType.Q4_0


def test_a_file_that_is_there_is_not_written_again(shape: Shape, tmp_path: Path) -> None:
    told = list[str]()
    places = Places.below(tmp_path)
    first = synthetic_model(shape, "F16", places, lambda share, text: told.append(text))
    written, before = len(told), first.stat()
    assert synthetic_model(shape, "F16", places, lambda share, text: told.append(text)) == first
    assert written > 0
    assert (len(told), first.stat().st_mtime_ns) == (written, before.st_mtime_ns)


def test_another_architecture_at_its_own_shape_is_read_as_a_model(shape: Shape, tmp_path: Path) -> None:
    older = dataclasses.replace(shape, name="older", architecture="gemma2")
    header = read_model(synthetic_model(older, "F16", Places.below(tmp_path), lambda share, text: None))
    assert header.number("gemma2.final_logit_softcapping") == 30
    assert not any("q_norm" in tensor.name for tensor in header.tensors)


def test_an_unknown_type_is_refused_with_the_known_ones_and_leaves_nothing_behind(shape: Shape, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"there is no type 'Q9'.*Q4_0"):
        synthetic_model(shape, "Q9", Places.below(tmp_path), lambda share, text: None)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_a_tensor_whose_data_is_not_as_long_as_its_shape_is_refused() -> None:
    short = PlannedTensor("short", (32, 2), F16, [bytes(8)])
    with pytest.raises(RequestError, match="has 8 bytes; its shape needs 128"):
        write_gguf(io.BytesIO(), {"general.architecture": "gemma3"}, [short])


@pytest.mark.parametrize("name", SHAPES)
def test_the_real_vocabularies_are_full_of_different_tokens(name: str) -> None:
    size = SHAPES[name].vocabulary
    texts = [token.text for token in synthetic_tokens(size)]
    assert len(set(texts)) == size
    assert {f"\u2581{word}" for word in synthetic_words(size)} <= set(texts)
    assert len(synthetic_words(size)) == 26**3


def test_a_small_vocabulary_gives_the_words_that_it_holds() -> None:
    for size in (500, 1060, 1200):
        texts = {token.text for token in synthetic_tokens(size)}
        words = synthetic_words(size)
        assert words
        assert {f"\u2581{word}" for word in words} <= texts


def test_the_ends_of_a_models_replies_are_found_in_its_vocabulary(tiny: Path) -> None:
    assert ending_bias(tiny) == {"1": -100.0, "5": -100.0}


def test_a_token_reads_all_weights_as_the_output_shares_the_embeddings(tiny: Path) -> None:
    header = read_model(tiny)
    assert token_bytes(header) == sum(tensor.size_bytes for tensor in header.tensors)


def test_prompts_differ_by_key_and_are_the_same_for_the_same_key() -> None:
    prompts = Prompts(synthetic_words(2048), seed=3)
    assert prompts.text(16, "map", 0) == prompts.text(16, "map", 0)
    assert len({prompts.text(16, "map", random.Random(turn).random()) for turn in range(50)}) == 50


def test_prompts_of_words_with_several_tokens_have_fewer_words() -> None:
    assert len(Prompts(["aa"], 1, tokens_per_word=2.0).text(64, "any").split()) == 32
