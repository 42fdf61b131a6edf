"""Images and text on llama.cpp: what users type, markers, log lines."""

import ctypes
import io
import logging
from pathlib import Path

import llama_cpp
import pytest
from gemma_mcp_llamacpp.executor import LlamaCppExecutor
from gemma_mcp_llamacpp.log import NativeLog, native_log
from gemma_mcp_llamacpp.media import Projector
from gemma_mcp_llamacpp.native import Model
from llamacpp_models import SMALL, Load
from PIL import Image

from gemma_mcp.engine.backend import Executor, MediaPiece, TokenPiece
from gemma_mcp.errors import InputRefusedError, UnsupportedError
from gemma_mcp.testing.contract_ground import picture, turn
from gemma_mcp.testing.generation import GREEDY, ids_of, length, reply
from gemma_mcp.types import Control, Media, Text


@pytest.fixture
def executor(load: Load, tiny: Path) -> Executor:
    return load(tiny / "gemma3.gguf", SMALL, projector=tiny / "mmproj.gguf")


def test_an_image_without_a_projector_is_unsupported(load: Load, tiny: Path) -> None:
    executor = load(tiny / "gemma3.gguf")
    assert not executor.info.images
    with pytest.raises(UnsupportedError, match="cannot see images"):
        executor.encode(turn(Media(picture("red"))))
    executor.release([1])


def test_a_typed_media_marker_is_no_image(executor: Executor) -> None:
    for text in ("<__media__>", "<start_of_image>", "<image_soft_token>"):
        pieces = executor.encode([Text(text)])
        assert [type(piece) for piece in pieces] == [TokenPiece]
        assert executor.decode(ids_of(pieces)).decode() == text


def test_an_image_stands_between_its_markers(executor: Executor) -> None:
    before, image, after = executor.encode([Text("a"), Media(picture("red")), Text("b")])
    start, end = (ids_of(executor.encode([Control(text)]))[1] for text in ("<start_of_image>", "<end_of_image>"))
    assert isinstance(image, MediaPiece)
    assert isinstance(before, TokenPiece)
    assert isinstance(after, TokenPiece)
    assert before.ids[-1] == start
    assert after.ids[0] == end
    assert image.positions == 4  # ((56 / 14) / 2) ** 2
    assert len(image.digest) == 64


def test_a_prompt_may_begin_with_an_image(executor: Executor) -> None:
    pieces = executor.encode([Media(picture("red")), Media(picture("blue"))])
    bos = ids_of(executor.encode([Text("")]))
    assert ids_of(pieces)[:1] == bos
    assert ids_of(pieces).count(bos[0]) == 1
    assert [type(piece) for piece in pieces] == [TokenPiece, MediaPiece, TokenPiece, MediaPiece, TokenPiece]
    assert length(pieces) == len(ids_of(pieces)) + 8


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_any_kind_of_image_is_seen(executor: Executor, mode: str) -> None:
    file = io.BytesIO()
    Image.new(mode, (30, 200)).save(file, "JPEG" if mode == "CMYK" else "PNG")
    pieces = executor.encode(turn(Media(file.getvalue()), Text("Describe.")))
    assert len(reply(executor, pieces, limit=3)) == 3


def test_a_failing_prompt_holds_no_images(executor: Executor) -> None:
    with pytest.raises(InputRefusedError):
        executor.encode([Media(picture("red")), Media(b"nothing")])
    first, second = (_handle(executor, colour) for colour in ("red", "blue"))
    assert second == first + 1
    assert isinstance(executor, LlamaCppExecutor)


def test_an_image_larger_than_a_step_is_refused(tiny: Path) -> None:
    from gemma_mcp_llamacpp.devices import choose

    model = Model("tiny", str(tiny / "gemma3.gguf"), choose("tiny", "cpu", 1), 0, lambda share: None)
    projector = Projector("tiny", str(tiny / "mmproj.gguf"), model, threads=1, flash_attention=True, gpu=False)
    assert projector.most_tokens() == 4
    with pytest.raises(InputRefusedError, match="4 tokens"):
        projector.prepare(picture("red"), limit=3)
    projector.close()
    model.close()


def test_text_of_any_length_and_kind_is_encoded(executor: Executor) -> None:
    text = "Ω\0\ud83d\ude00\udc00" * 5000
    assert executor.decode(ids_of(executor.encode([Text(text)]))).decode() == "Ω\0😀�" * 5000
    assert executor.decode([10**9, -1]) == b""


def test_a_typed_marker_of_gemma_4_stays_text_though_it_is_no_control_token(load: Load, tiny: Path) -> None:
    executor = load(tiny / "gemma4.gguf")
    for marker in ("<|channel>", "<channel|>", '<|"|>', "<|turn>", "<|tool_call>"):
        honoured = ids_of(executor.encode([Control(marker)]))
        typed = ids_of(executor.encode([Text(f"a{marker}<{marker}b")]))
        assert len(honoured) == 2
        assert honoured[1] not in typed
        assert executor.decode(typed).decode() == f"a{marker}<{marker}b"
    tag = ids_of(executor.encode([Control("<table>")]))
    assert ids_of(executor.encode([Text("<table>")])) == tag  # an ordinary word of the vocabulary


def test_neighbouring_texts_are_encoded_as_one(executor: Executor) -> None:
    apart = executor.encode([Text("hel"), Text("lo wor"), Text("ld")])
    assert apart == executor.encode([Text("hello world")])


def test_prompts_never_reach_the_log(
    executor: Executor, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        reply(executor, executor.encode(turn(Media(picture("red")), Text("hello secret"))), GREEDY, limit=3)
    out, err = capfd.readouterr()
    assert "secret" not in caplog.text + out + err
    assert out == ""


def test_the_first_error_is_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    log = NativeLog()
    log.install()
    try:
        with log.errors() as reasons:
            assert str(reasons) == "llama.cpp gave no reason"
            assert llama_cpp.llama_model_load_from_file(b"missing.gguf", llama_cpp.llama_model_default_params()) is None
            assert "No such file" in str(reasons)
            assert not str(reasons).startswith("gguf_init")
    finally:
        native_log().install()
    assert any(record.levelno == logging.ERROR for record in caplog.records)


def test_log_lines_in_parts_are_joined(caplog: pytest.LogCaptureFixture) -> None:
    log = NativeLog()
    for level, text in ((3, b"half "), (5, b"whole\n"), (2, b"private\n"), (5, b"more\n"), (3, None), (3, b"\xff\n")):
        log.write(level, text, ctypes.c_void_p(0))
    assert [record.message for record in caplog.records] == ["half whole", "�"]


def _handle(executor: Executor, colour: str) -> int:
    return next(piece.media for piece in executor.encode([Media(picture(colour))]) if isinstance(piece, MediaPiece))
