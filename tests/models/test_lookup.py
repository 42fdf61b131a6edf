"""Names to model files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gemma_mcp.errors import InputRefusedError, LoadFailedError, UnknownModelError
from gemma_mcp.models.gemma import ARCHITECTURES, read_model, read_projector, sampling_of
from gemma_mcp.models.lookup import STARTER_NOTICE, find_model, known_models, starter_model
from gemma_mcp.places import Places
from gemma_mcp.settings import (
    BackendSettings,
    EngineSettings,
    LlamaCppSettings,
    ModelSettings,
    ServerSettings,
    Settings,
)
from gemma_mcp.types import Sampling

WriteGguf = Callable[..., Path]
PROJECTOR = {"clip.projector_type": "gemma3", "clip.vision.projection_dim": 8, "general.type": "mmproj"}


def settings(*directories: Path | str, default: str = "starter") -> Settings:
    """Settings of which only the models matter here."""
    return Settings.model_construct(
        model=ModelSettings(default=default, directories=tuple(map(str, directories))),
        engine=EngineSettings.model_construct(),
        backend=BackendSettings.model_construct(),
        llamacpp=LlamaCppSettings.model_construct(),
        server=ServerSettings.model_construct(),
    )


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places.below(tmp_path / "home")


def test_a_file_in_a_models_folder_is_named_after_its_stem(
    write_gguf: WriteGguf, places: Places, tmp_path: Path
) -> None:
    path = write_gguf("files/gemma-3-4b-it.gguf")
    spec = find_model("gemma-3-4b-it", settings(tmp_path / "files"), places)
    assert (spec.name, spec.format, spec.path, spec.projector) == ("gemma-3-4b-it", "gguf", str(path), None)
    assert spec.notice == ""


def test_a_name_is_found_whatever_its_case(write_gguf: WriteGguf, places: Places) -> None:
    path = write_gguf("home/models/Gemma-3-4B.gguf")
    assert find_model("gemma-3-4b", settings(), places).path == str(path)


def test_of_two_files_with_one_name_the_configured_folder_counts(
    write_gguf: WriteGguf, places: Places, tmp_path: Path
) -> None:
    write_gguf("home/models/a.gguf")
    first = write_gguf("files/a.gguf")
    assert find_model("a", settings(tmp_path / "files"), places).path == str(first)


def test_a_path_names_a_model(write_gguf: WriteGguf, places: Places) -> None:
    path = write_gguf("somewhere/model.gguf")
    assert find_model(str(path), settings(), places).name == "model"


def test_a_path_may_begin_at_the_home_folder(
    write_gguf: WriteGguf, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    path = write_gguf("somewhere/model.gguf")
    assert find_model("~/somewhere/model.gguf", settings(), places).path == str(path)


def test_the_default_model_can_be_asked_for_by_its_stem(write_gguf: WriteGguf, places: Places) -> None:
    path = write_gguf("elsewhere/best.gguf")
    chosen = settings(default=str(path))
    assert find_model("best", chosen, places).path == str(path)
    assert known_models(chosen, places) == ["starter", "best"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("models/a.gguf", "relative path"),
        ("a.gguf", "relative path"),
        ("~no-such-user-here/a.gguf", "no such home folder"),
        ("/a\0.gguf", "NUL"),
    ],
)
def test_a_path_that_cannot_be_meant_is_refused(places: Places, name: str, reason: str) -> None:
    with pytest.raises(InputRefusedError, match=reason):
        find_model(name, settings(), places)


def test_a_folder_is_refused(places: Places, tmp_path: Path) -> None:
    with pytest.raises(InputRefusedError, match="folder"):
        find_model(str(tmp_path), settings(), places)


def test_an_unknown_model_is_answered_with_the_known_ones_closest_first(write_gguf: WriteGguf, places: Places) -> None:
    for name in ("aaa", "gemma-3-4b-it", "zzz"):
        write_gguf(f"home/models/{name}.gguf")
    with pytest.raises(UnknownModelError) as caught:
        find_model("gemma-3-4b", settings(), places)
    assert caught.value.known == ["gemma-3-4b-it", "starter", "aaa", "zzz"]


def test_known_models_leave_out_projectors_and_parts_and_folders_that_are_not_there(
    write_gguf: WriteGguf, places: Places, tmp_path: Path
) -> None:
    for name in ("b.gguf", "A.GGUF", "mmproj-b.gguf", "big-00001-of-00002.gguf"):
        write_gguf(f"home/models/{name}")
    (tmp_path / "home/models/notes.txt").write_text("", encoding="utf-8")
    known = known_models(settings(tmp_path / "none", "~no-such-user-here/models"), places)
    assert known == ["starter", "A", "b"]


def test_the_projector_beside_a_model_is_taken_when_exactly_one_fits(write_gguf: WriteGguf, places: Places) -> None:
    write_gguf("home/models/a.gguf")
    fitting = write_gguf("home/models/mmproj-a.gguf", "clip", PROJECTOR)
    write_gguf("home/models/mmproj-wide.gguf", "clip", PROJECTOR | {"clip.vision.projection_dim": 16})
    write_gguf("home/models/mmproj-other.gguf", "clip", PROJECTOR | {"clip.projector_type": "llava"})
    (fitting.parent / "mmproj-broken.gguf").write_bytes(b"no")
    assert find_model("a", settings(), places).projector == str(fitting)


def test_of_two_projectors_that_fit_none_is_guessed(write_gguf: WriteGguf, places: Places) -> None:
    write_gguf("home/models/a.gguf")
    for name in ("mmproj-f16", "mmproj-q8"):
        write_gguf(f"home/models/{name}.gguf", "clip", PROJECTOR)
    assert find_model("a", settings(), places).projector is None


def test_the_starter_is_greedy_and_says_that_it_is_a_toy(write_gguf: WriteGguf, tmp_path: Path) -> None:
    write_gguf("starter/starter.gguf")
    write_gguf("starter/mmproj.gguf", "clip", PROJECTOR)
    spec = starter_model(tmp_path / "starter")
    assert (spec.name, spec.projector) == ("starter", str(tmp_path / "starter/mmproj.gguf"))
    assert spec.sampling.temperature == 0
    assert spec.notice == STARTER_NOTICE
    assert "GEMMA_MCP_MODEL_DEFAULT" in STARTER_NOTICE


def test_an_installation_without_the_starter_says_so(tmp_path: Path) -> None:
    with pytest.raises(LoadFailedError, match=r"starter\.gguf is missing"):
        starter_model(tmp_path)


def test_the_echo_model_needs_no_files(places: Places) -> None:
    spec = find_model("echo", settings(), places)
    assert (spec.name, spec.format, spec.path) == ("echo", "echo", "")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_gemma_is_taken(write_gguf: WriteGguf, architecture: str) -> None:
    assert read_model(write_gguf("a.gguf", architecture)).architecture == architecture


@pytest.mark.parametrize(
    ("architecture", "metadata", "reason"),
    [
        ("llama", {}, "'llama', which is not a Gemma"),
        ("gemma-embedding", {}, "'gemma-embedding', which is not a Gemma"),
        ("clip", PROJECTOR, "is a projector"),
        ("gemma3", {"split.count": 3, "split.no": 1}, "part 2 of 3"),
    ],
)
def test_a_file_that_is_no_whole_gemma_is_refused_with_the_reason(
    write_gguf: WriteGguf, architecture: str, metadata: dict[str, str | int], reason: str
) -> None:
    with pytest.raises(LoadFailedError, match=reason):
        read_model(write_gguf("a.gguf", architecture, metadata))


def test_a_model_given_as_projector_is_refused(write_gguf: WriteGguf) -> None:
    with pytest.raises(LoadFailedError, match="'gemma3' model, not a projector"):
        read_projector(write_gguf("a.gguf"))


def test_a_file_says_how_it_wants_to_be_sampled(write_gguf: WriteGguf) -> None:
    keys = {"temp": 0.5, "top_k": 7, "top_p": 0.25, "penalty_last_n": 9, "mirostat": 2}
    path = write_gguf("a.gguf", metadata={f"general.sampling.{key}": value for key, value in keys.items()})
    assert sampling_of(read_model(path)) == Sampling(temperature=0.5, top_k=7, top_p=0.25, repeat_last_n=9, mirostat=2)


def test_impossible_sampling_values_are_passed_over(write_gguf: WriteGguf) -> None:
    keys = {"temp": -1.0, "top_p": 0.0, "mirostat": 3, "min_p": float("nan"), "top_k": "many"}
    path = write_gguf("a.gguf", metadata={f"general.sampling.{key}": value for key, value in keys.items()})
    assert sampling_of(read_model(path)) == Sampling()
