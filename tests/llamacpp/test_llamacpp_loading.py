"""Loading models with llama.cpp, and refusing what is none."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import msgspec
import pytest
from gemma_mcp_llamacpp import LlamaCppBackend
from gemma_mcp_llamacpp import backend as backend_module
from llamacpp_models import SMALL, Load
from tiny_gguf import write_foreign

from gemma_mcp.engine.backend import LoadOptions, ModelSpec
from gemma_mcp.errors import BackendMissingError, LoadFailedError
from gemma_mcp.testing.generation import reply, text_of
from gemma_mcp.types import Control, FimTokens, Text


def why(path: Path, projector: Path | None = None, options: LoadOptions = SMALL) -> str:
    spec = ModelSpec(
        name="broken", format="gguf", path=str(path), projector=None if projector is None else str(projector)
    )
    with pytest.raises(LoadFailedError) as caught:
        LlamaCppBackend().load(spec, options, lambda share: None)
    assert caught.value.model == "broken"
    return str(caught.value)


def test_the_starter_says_everything_about_itself(load: Load, starter: ModelSpec) -> None:
    info = load(starter, msgspec.structs.replace(SMALL, slots=3, context_length=100_000)).info
    assert info.architecture == "gemma3"
    assert info.runtime == "llama.cpp b11312 (llama-cpp-python 0.3.36)"
    assert info.device.startswith("cpu (")
    assert (info.bos, info.eos) == ("<bos>", "<eos>")
    assert info.fim == FimTokens("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_separator|>")
    assert info.chat_template is not None
    assert "start_of_turn" in info.chat_template
    assert info.window > 0
    assert info.size_bytes > 1_000_000
    assert info.context_length == 2048  # what it was trained for, per request
    assert info.slots == 3
    assert info.images


def test_the_starter_knows_the_capital_of_france(load: Load, starter: ModelSpec) -> None:
    executor = load(starter)
    question = Text("What is the capital of France?")
    turn = (Control("<bos><start_of_turn>user\n"), question, Control("<end_of_turn>\n<start_of_turn>model\n"))
    assert "Paris" in text_of(reply(executor, executor.encode(turn)))


@pytest.mark.parametrize("swa_full", [False, True])
@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_gemma_4_loads_and_generates(load: Load, tiny: Path, swa_full: bool, kv_type: str) -> None:
    changes = {"swa_full": swa_full, "kv_type": kv_type}
    executor = load(tiny / "gemma4.gguf", msgspec.structs.replace(SMALL, **changes))
    assert executor.info.architecture == "gemma4"
    assert executor.info.fim is None
    assert not executor.info.images
    assert len(reply(executor, executor.encode([Control("<|turn>user\n"), Text("hello world")]), limit=8)) == 8


def test_progress_runs_from_start_to_end(starter: ModelSpec) -> None:
    seen: list[float] = []
    LlamaCppBackend().load(starter, SMALL, seen.append).close()
    assert seen == sorted(seen)
    assert 0 <= seen[0] < seen[-1] == 1


def test_a_listener_that_fails_ends_the_load_with_its_error(starter: ModelSpec) -> None:
    def fail(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LlamaCppBackend().load(starter, SMALL, fail)


@pytest.mark.parametrize("size", [0, 3, 20, 2_000, 200_000])
def test_a_truncated_file_is_one_clear_error(tiny: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes((tiny / "gemma3.gguf").read_bytes()[:size])
    message = why(path)
    assert "could not be loaded" in message
    assert "gave no reason" not in message


def test_a_foreign_file_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "notes.gguf"
    path.write_text("These are notes, not weights.", encoding="utf-8")
    assert "invalid magic" in why(path)


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    assert "there is no file" in why(tmp_path / "nothing.gguf")


def test_a_projector_is_no_model(tiny: Path) -> None:
    assert "CLIP cannot be used as main model" in why(tiny / "mmproj.gguf")


@pytest.mark.parametrize("architecture", ["nonsense", "llama"])
def test_another_architecture_is_refused(tmp_path: Path, architecture: str) -> None:
    path = tmp_path / "other.gguf"
    write_foreign(path, architecture)
    assert why(path)


def test_a_broken_projector_is_named(tiny: Path, tmp_path: Path) -> None:
    broken = tmp_path / "mmproj-broken.gguf"
    broken.write_bytes((tiny / "mmproj.gguf").read_bytes()[:1000])
    assert "mmproj-broken.gguf" in why(tiny / "gemma3.gguf", broken)
    assert "there is no file" in why(tiny / "gemma3.gguf", tmp_path / "none.gguf")


def test_an_unknown_device_is_refused_with_the_known_ones(tiny: Path) -> None:
    message = why(tiny / "gemma3.gguf", options=msgspec.structs.replace(SMALL, device="CUDA7"))
    assert "'CUDA7'" in message
    assert "cpu" in message


def test_a_quantised_cache_needs_flash_attention(tiny: Path) -> None:
    options = msgspec.structs.replace(SMALL, kv_type="q8_0", flash_attention=False)
    assert "flash" in why(tiny / "gemma3.gguf", options=options)


def test_devices_end_with_the_cpu() -> None:
    assert LlamaCppBackend().devices()[-1] == "cpu"


def test_asking_what_is_missing_imports_nothing_native() -> None:
    code = (
        "import sys, gemma_mcp_llamacpp as b; assert b.LlamaCppBackend().missing() is None;"
        "print(sorted({'llama_cpp', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_another_release_counts_as_missing(monkeypatch: pytest.MonkeyPatch, starter: ModelSpec) -> None:
    monkeypatch.setattr(backend_module, "VERSION", "0.0.1")
    assert LlamaCppBackend().missing() == "pip install 'gemma-mcp[llamacpp]'"
    with pytest.raises(BackendMissingError, match="pip install"):
        LlamaCppBackend().load(starter, SMALL, lambda share: None)
    with pytest.raises(BackendMissingError):
        LlamaCppBackend().devices()


def test_a_runtime_that_is_not_there_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        return None

    def unknown(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(backend_module.metadata, "version", unknown)
    assert LlamaCppBackend().missing() is not None
    monkeypatch.setattr(backend_module.importlib.util, "find_spec", nothing)
    assert LlamaCppBackend().missing() is not None
