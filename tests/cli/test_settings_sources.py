import contextlib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_mcp.errors import ConfigError
from gemma_mcp.places import Places
from gemma_mcp.settings_sources import LoadedSettings, load_settings, setting_types, to_environment, variable

DEFAULTS = Path(__file__).parents[2] / "config" / "defaults.toml"


def load(
    folder: Path,
    text: str | bytes | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> LoadedSettings:
    if text is not None:
        (folder / "config.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    return load_settings({"GEMMA_MCP_HOME": str(folder), **(environ or {})}, overrides or {})


def refusal(
    folder: Path,
    text: str | bytes | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, environ, overrides)
    return str(caught.value).replace(f"{folder}{os.sep}", "")


def test_the_defaults_have_exactly_the_keys_of_the_settings_each_with_one_comment(tmp_path: Path) -> None:
    text = DEFAULTS.read_text(encoding="utf-8")
    sections = tomllib.loads(text).items()
    assert [f"{section}.{key}" for section, table in sections for key in table] == list(setting_types())
    assert list(load(tmp_path).origins) == list(setting_types())
    body = text[text.index("[model]") :]
    assert all(re.fullmatch(r"\[\w+\]|# \S.*\.\n\w+ = .+", block) for block in _blocks(body))


def _blocks(body: str) -> list[str]:
    """Section headers alone, keys together with the line before them."""
    lines = [line for line in body.splitlines() if line]
    blocks: list[str] = []
    while lines:
        block = lines.pop(0)
        blocks.append(block if block.startswith("[") else f"{block}\n{lines.pop(0)}")
    return blocks


def test_later_sources_win_and_every_value_knows_its_origin(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        "[engine]\n\nport = 1111\nmax_models = 3\nqueue_limit = 5\n",
        {"GEMMA_MCP_ENGINE_MAX_MODELS": "4", "GEMMA_MCP_ENGINE_QUEUE_LIMIT": "6"},
        {"engine.queue_limit": "7"},
    )
    engine = loaded.settings.engine
    assert (engine.port, engine.max_models, engine.queue_limit) == (1111, 4, 7)
    assert str(loaded.origins["engine.port"]) == f"{tmp_path / 'config.toml'}:3"
    assert str(loaded.origins["engine.max_models"]) == "GEMMA_MCP_ENGINE_MAX_MODELS"
    assert str(loaded.origins["engine.queue_limit"]) == "--set"
    assert loaded.origins["engine.keep_alive"].kind == "default"
    assert loaded.origins["engine.keep_alive"].line is not None
    assert ("engine.port", 1111, loaded.origins["engine.port"]) in list(loaded.items())


def test_without_a_file_the_defaults_apply_and_its_place_is_told(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert loaded.config_file == tmp_path / "config.toml"
    assert {origin.kind for origin in loaded.origins.values()} == {"default"}


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("[llamacpp]\nslots = 2\n", encoding="utf-8")
    loaded = load(tmp_path, None, {"GEMMA_MCP_CONFIG": str(tmp_path / "other.toml")})
    assert loaded.settings.llamacpp.slots == 2
    assert loaded.config_file == tmp_path / "other.toml"


def test_places_can_be_given(tmp_path: Path) -> None:
    assert load_settings({}, places=Places.below(tmp_path)).config_file == tmp_path / "config.toml"


def test_a_file_named_by_the_environment_must_exist(tmp_path: Path) -> None:
    message = refusal(tmp_path, None, {"GEMMA_MCP_CONFIG": str(tmp_path / "gone.toml")})
    assert message == "gone.toml: file: it does not exist. See GEMMA_MCP_CONFIG."


def test_a_relative_path_of_the_file_is_refused_because_processes_have_other_folders(tmp_path: Path) -> None:
    message = refusal(tmp_path, None, {"GEMMA_MCP_CONFIG": "gemma.toml"})
    assert message == "environment: GEMMA_MCP_CONFIG: 'gemma.toml' is not an absolute path."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[engine]\nprot = 1", "config.toml:2: engine.prot: there is no such setting. Did you mean engine.port?"),
        ("[enigne]\nport = 1", "config.toml:1: enigne: there is no such setting. Did you mean engine?"),
        (
            "[engine]\n# few\nslots = 1",
            "config.toml:3: engine.slots: there is no such setting. Did you mean llamacpp.slots?",
        ),
        ("zzz = 1", "config.toml:1: zzz: there is no such setting. `gemma-mcp config` lists every key."),
        ("engine = 1", "config.toml:1: engine: this is a section, not a value. Write [engine] above its keys."),
        ("[[engine]]", "config.toml:1: engine: this is a section, not a value. Write [engine] above its keys."),
    ],
)
def test_an_unknown_key_in_the_file_is_named_with_its_line_and_a_suggestion(
    tmp_path: Path, text: str, message: str
) -> None:
    assert refusal(tmp_path, text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('port = "x"', 'engine.port: this must be a whole number from 0 up to 65535, not "x".'),
        ("port = 99999", "engine.port: this must be a whole number from 0 up to 65535, not 99999."),
        ("port = true", "engine.port: this must be a whole number from 0 up to 65535, not true."),
        ("port = 1.5", "engine.port: this must be a whole number from 0 up to 65535, not 1.5."),
        ("port = 1979-05-27", 'engine.port: this must be a whole number from 0 up to 65535, not "1979-05-27".'),
        ("port = {}", "engine.port: this must be a whole number from 0 up to 65535, not a table."),
        ("keep_alive = nan", "engine.keep_alive: this must be a number above 0 up to 2592000, not NaN."),
        ("keep_alive = -1", "engine.keep_alive: this must be a number above 0 up to 2592000, not -1."),
        ('log_level = "loud"', 'engine.log_level: this must be one of debug, info, warning, error, not "loud".'),
    ],
)
def test_a_bad_value_in_the_file_is_told_in_plain_words(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, f"[engine]\n{text}") == f"config.toml:2: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\ndefault = ''", 'model.default: this must be text that is not empty, not "".'),
        ("[model]\ndirectories = [\n'a',\n3]", 'model.directories: this must be a list of texts, not ["a", 3].'),
        ("[llamacpp]\nflash_attention = 1", "llamacpp.flash_attention: this must be true or false, not 1."),
        ("[server]\nroot = 3", "server.root: this must be text, not 3."),
        (
            "[server]\nprogress_interval = 0",
            "server.progress_interval: this must be a number from 0.1 up to 60, not 0.",
        ),
    ],
)
def test_every_type_has_its_words(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text) == f"config.toml:2: {message}"


def test_a_huge_value_is_quoted_in_part_only(tmp_path: Path) -> None:
    message = refusal(tmp_path, f"[engine]\nlog_level = '{'x' * 10_000}'")
    assert message.endswith("xxx….")
    assert len(message) < 200


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("\n[engine\n", 2, "expected ']' at the end of a table declaration."),
        ("[engine]\nport = 1\nport = 2", 3, "a key or section is given twice."),
        ("[engine]\n[model]\n[engine]", 3, "a key or section is given twice."),
        ("[engine]\nport = 1\nengine = '", 3, 'expected "\'".'),
        ("[engine]\nport =", 2, "invalid value."),
    ],
)
def test_a_file_that_is_not_toml_is_refused_with_the_line(tmp_path: Path, text: str, line: int, why: str) -> None:
    assert refusal(tmp_path, text) == f"config.toml:{line}: TOML: {why}"


def test_a_file_that_is_not_utf8_is_refused_with_the_line(tmp_path: Path) -> None:
    message = refusal(tmp_path, b"[engine]\n# \xff")
    assert message == "config.toml:2: file: this is not UTF-8 text. Save the file as UTF-8."


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    assert refusal(tmp_path).startswith("config.toml: file: it cannot be read (")


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    assert load(tmp_path, b"\xef\xbb\xbf[engine]\r\nport = 7\r\n").settings.engine.port == 7


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("engine.port = 1", 1),
        ("engine = {port = 1}", 1),
        ("[model]\ndirectories = [\n  'port = 2',\n]\n[engine]\nport = 1", 6),
        ("[model]\ndefault = '''\n[engine]\nport = 3'''\n\n[engine] # here\n'port' = 1", 7),
        ("['engine']\n\"port\" = 1", 2),
        ("# one\u2028line\x85still\n[engine]\nport = 1", 3),
    ],
)
def test_the_line_of_a_key_is_found_however_it_is_written(tmp_path: Path, text: str, line: int) -> None:
    loaded = load(tmp_path, text)
    assert loaded.settings.engine.port == 1
    assert loaded.origins["engine.port"].line == line


def test_a_value_over_several_lines_is_found_where_it_begins(tmp_path: Path) -> None:
    loaded = load(tmp_path, "[model]\ndirectories = [\n  'a',\n]\n")
    assert loaded.settings.model.directories == ("a",)
    assert loaded.origins["model.directories"].line == 2


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("engine.port", " 8080 ", 8080),
        ("engine.keep_alive", "90", 90.0),
        ("engine.keep_alive", "1.5e3", 1500.0),
        ("llamacpp.flash_attention", "Off", False),
        ("llamacpp.flash_attention", "1", True),
        ("llamacpp.kv_type", "q8_0", "q8_0"),
        ("model.default", "/models/gemma 3.gguf", "/models/gemma 3.gguf"),
        ("model.directories", '["/a", "/b:c"]', ("/a", "/b:c")),
        ("model.directories", os.pathsep.join(["/a", "/b"]), ("/a", "/b")),
    ],
)
def test_variables_and_flags_are_read_by_the_type_of_their_key(
    tmp_path: Path, key: str, text: str, value: object
) -> None:
    by_variable = load(tmp_path, None, {variable(key): text})
    by_flag = load(tmp_path, None, None, {key: text})
    assert dict(_values(by_variable))[key] == dict(_values(by_flag))[key] == value


def _values(loaded: LoadedSettings) -> list[tuple[str, object]]:
    return [(key, value) for key, value, _ in loaded.items()]


@pytest.mark.parametrize("text", ["", "  ", "${PORT}", "${PORT:-8080}", " ${PORT} "])
def test_an_empty_or_unexpanded_variable_counts_as_unset(tmp_path: Path, text: str) -> None:
    loaded = load(tmp_path, None, {"GEMMA_MCP_ENGINE_PORT": text, "GEMMA_MCP_CONFIG": text})
    assert loaded.origins["engine.port"].kind == "default"


@pytest.mark.parametrize("text", ["", "  ", "${HOME}", "${HOME:-/tmp/x}", " ${HOME} "])
def test_the_home_folder_counts_as_unset_by_the_same_rule(text: str) -> None:
    assert Places.find({"GEMMA_MCP_HOME": text}) == Places.find({})


@pytest.mark.parametrize("name", ["GEMMA_MCP_HOME", "GEMMA_MCP_CONFIG"])
@pytest.mark.parametrize("text", ["${HOME}/x", "/data/${USER}", "${A}${B}"])
def test_a_path_that_a_client_expanded_in_part_only_is_refused(tmp_path: Path, name: str, text: str) -> None:
    message = refusal(tmp_path, None, {name: text})
    assert message == f"environment: {name}: {text!r} holds a variable that was not expanded. Write the path itself."


def test_an_unexpanded_flag_counts_as_unset(tmp_path: Path) -> None:
    assert load(tmp_path, None, None, {"engine.port": "${PORT}"}).origins["engine.port"].kind == "default"


def test_an_empty_flag_is_a_value(tmp_path: Path) -> None:
    text = "[server]\nroot = '/data'\n[model]\ndirectories = ['/m']"
    loaded = load(tmp_path, text, None, {"server.root": "", "model.directories": ""})
    assert (loaded.settings.server.root, loaded.settings.model.directories) == ("", ())


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"GEMMA_MCP_ENGINE_PORT": "abc"},
            'GEMMA_MCP_ENGINE_PORT: engine.port: this must be a whole number from 0 up to 65535, not "abc".',
        ),
        (
            {"GEMMA_MCP_ENGINE_PORT": "-1"},
            "GEMMA_MCP_ENGINE_PORT: engine.port: this must be a whole number from 0 up to 65535, not -1.",
        ),
        (
            {"GEMMA_MCP_MODEL_DIRECTORIES": "[1"},
            'GEMMA_MCP_MODEL_DIRECTORIES: model.directories: this must be a list of texts, not "[1".',
        ),
        (
            {"GEMMA_MCP_LLAMACPP_FLASH_ATTENTION": "maybe"},
            'GEMMA_MCP_LLAMACPP_FLASH_ATTENTION: llamacpp.flash_attention: this must be true or false, not "maybe".',
        ),
        (
            {"GEMMA_MCP_ENGINE_PROT": "1"},
            "environment: GEMMA_MCP_ENGINE_PROT: there is no such setting. Did you mean GEMMA_MCP_ENGINE_PORT?",
        ),
    ],
)
def test_a_bad_variable_is_named(tmp_path: Path, environ: Mapping[str, str], message: str) -> None:
    assert refusal(tmp_path, None, environ) == message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"prot": "1"}, "--set: prot: there is no such setting. `gemma-mcp config` lists every key."),
        ({"port": "1"}, "--set: port: there is no such setting. Did you mean engine.port?"),
        (
            {"engine.port": "x"},
            '--set: engine.port: this must be a whole number from 0 up to 65535, not "x".',
        ),
    ],
)
def test_a_bad_flag_is_named(tmp_path: Path, overrides: Mapping[str, str], message: str) -> None:
    assert refusal(tmp_path, None, None, overrides) == message


def test_a_bad_value_does_not_hide_behind_a_later_one(tmp_path: Path) -> None:
    message = refusal(tmp_path, "[engine]\nport = 'x'", {"GEMMA_MCP_ENGINE_PORT": "1"}, {"engine.port": "2"})
    assert message.startswith("config.toml:2: engine.port")


def test_settings_survive_a_trip_through_the_environment(tmp_path: Path) -> None:
    first = load(tmp_path, "[model]\ndirectories = ['/a b', '/c']\n", None, {"llamacpp.flash_attention": "no"})
    assert load_settings(to_environment(first.settings), places=Places.below(tmp_path)).settings == first.settings


@given(st.binary(max_size=200))
def test_no_file_whatsoever_raises_anything_but_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    with contextlib.suppress(ConfigError):
        assert load(folder, content).settings


@given(st.sampled_from(sorted(setting_types())), st.text(max_size=40))
def test_no_text_whatsoever_raises_anything_but_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, key: str, text: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    with contextlib.suppress(ConfigError):
        assert load(folder, None, None, {key: text}).settings
