"""Where settings come from: defaults, the user's file, the environment, flags; a later one wins.

Every value knows its origin, so that an error, `gemma-mcp config` and `gemma-mcp doctor` can say where to edit it.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast, get_origin

from pydantic import BaseModel, ValidationError

from gemma_mcp.errors import ConfigError, as_clause
from gemma_mcp.places import HOME_VARIABLE, UNEXPANDED, Places, absolute_path, is_unset
from gemma_mcp.settings import Settings

__all__ = [
    "CONFIG_VARIABLE",
    "LoadedSettings",
    "Origin",
    "load_settings",
    "setting_types",
    "to_environment",
    "variable",
]

CONFIG_VARIABLE = "GEMMA_MCP_CONFIG"
PREFIX = "GEMMA_MCP_"
SWITCHES = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
SHOWN_CHARACTERS = 60
"""A wrong value is quoted in its error up to here; it may be anything that somebody pasted."""


@dataclass(frozen=True)
class Origin:
    """Where a value stands: a file and its line, an environment variable, a flag."""

    kind: Literal["default", "file", "environment", "flag"]
    where: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.where}:{self.line}" if self.line else self.where


@dataclass(frozen=True)
class LoadedSettings:
    """The settings, the origin of each by its key (`engine.port`), and the user's file whether it exists or not."""

    settings: Settings
    origins: Mapping[str, Origin]
    config_file: Path

    def items(self) -> Iterator[tuple[str, object, Origin]]:
        """Key, value and origin of every setting, in the order of the defaults."""
        values = _flatten(self.settings)
        for key, origin in self.origins.items():
            yield key, values[key], origin


@dataclass(frozen=True)
class _Given:
    value: object
    origin: Origin


_Layer = dict[str, _Given]
_NO_OVERRIDES: Mapping[str, str] = MappingProxyType({})


def load_settings(
    environ: Mapping[str, str],
    overrides: Mapping[str, str] = _NO_OVERRIDES,
    places: Places | None = None,
) -> LoadedSettings:
    """The settings in force. `overrides` are those of the flags `--set key=value`.

    Raises ConfigError, naming origin and key, for an unknown key, a bad value, a file that cannot be read or parsed.
    Every layer is checked, also where a later one replaces its values: a mistake does not hide until a flag goes away.
    """
    path, must_exist = _user_file(environ, places or Places.find(environ))
    layers = (
        _read_file(_defaults_file(), "default", must_exist=True),
        _read_file(path, "file", must_exist=must_exist),
        _read_environment(environ),
        _read_flags(overrides),
    )
    given: _Layer = {}
    settings: Settings | None = None
    for layer in layers:
        given |= layer
        settings = _validated(given)
    assert settings is not None
    return LoadedSettings(settings, {key: one.origin for key, one in given.items()}, path)


def to_environment(settings: Settings) -> dict[str, str]:
    """The variables that make another process read these same settings, whatever flags they came from."""
    return {variable(key): _as_text(value) for key, value in _flatten(settings).items()}


def variable(key: str) -> str:
    """The environment variable of a key: GEMMA_MCP_ENGINE_PORT for `engine.port`."""
    return PREFIX + key.replace(".", "_").upper()


def setting_types() -> dict[str, Any]:
    """The type of every setting, by key."""
    return {
        f"{section}.{name}": field.annotation
        for section, table in Settings.model_fields.items()
        for name, field in cast("type[BaseModel]", table.annotation).model_fields.items()
    }


# -- one layer each ---------------------------------------------------------------------------------------------------


def _defaults_file() -> Path:
    """In an installed package below it, in a checkout beside it."""
    package = Path(__file__).parent
    installed = package / "config" / "defaults.toml"
    return installed if installed.exists() else package.parent / "config" / "defaults.toml"


def _user_file(environ: Mapping[str, str], places: Places) -> tuple[Path, bool]:
    """The user's file, and whether it has to exist: yes when the environment names it."""
    named = environ.get(CONFIG_VARIABLE, "")
    if is_unset(named):
        return places.config_file, False
    return absolute_path(CONFIG_VARIABLE, named), True


def _read_file(path: Path, kind: Literal["default", "file"], *, must_exist: bool) -> _Layer:
    text = _file_text(path, must_exist=must_exist)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _bad_toml(path, text, error) from None
    lines = _statement_lines(text)
    layer: _Layer = {}
    for section, table in data.items():
        where = Origin(kind, str(path), lines.get((section,)))
        for key, value in _table(section, table, where).items():
            origin = Origin(kind, str(path), lines.get((section, key), where.line))
            layer[_known(f"{section}.{key}", origin)] = _Given(value, origin)
    return layer


def _file_text(path: Path, *, must_exist: bool) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # Windows editors like to write a byte order mark
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(str(path), "file", "it does not exist", f"See {CONFIG_VARIABLE}.") from None
        return ""
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}", "file", "this is not UTF-8 text", "Save the file as UTF-8.") from None
    except OSError as error:
        raise ConfigError(str(path), "file", f"it cannot be read ({error.strerror or error})") from None


def _table(section: str, table: object, origin: Origin) -> dict[str, object]:
    if section not in Settings.model_fields:
        raise _unknown(section, origin, list(Settings.model_fields))
    if not isinstance(table, dict):
        raise ConfigError(str(origin), section, "this is a section, not a value", f"Write [{section}] above its keys.")
    return cast("dict[str, object]", table)


def _read_environment(environ: Mapping[str, str]) -> _Layer:
    keys = {variable(key): key for key in setting_types()}
    layer: _Layer = {}
    for name, text in sorted(environ.items()):
        if not name.startswith(PREFIX) or name in (HOME_VARIABLE, CONFIG_VARIABLE) or is_unset(text):
            continue
        if name not in keys:
            raise _unknown(name, Origin("environment", "environment"), list(keys))
        origin = Origin("environment", name)
        layer[keys[name]] = _Given(_from_text(keys[name], text, origin), origin)
    return layer


def _read_flags(overrides: Mapping[str, str]) -> _Layer:
    layer: _Layer = {}
    for key, text in overrides.items():
        origin = Origin("flag", "--set")
        _known(key, origin)
        if not UNEXPANDED.fullmatch(text):
            layer[key] = _Given(_from_text(key, text, origin), origin)
    return layer


# -- values -----------------------------------------------------------------------------------------------------------


def _from_text(key: str, text: str, origin: Origin) -> object:
    """The value that a variable's or flag's text stands for, by the type of its key."""
    kind = setting_types()[key]
    try:
        if kind is bool:
            return SWITCHES[text.strip().lower()]
        if kind in (int, float):
            return kind(text)
        if get_origin(kind) is tuple:
            return json.loads(text) if text.lstrip().startswith("[") else text.split(os.pathsep) if text else []
    except (KeyError, ValueError, RecursionError):
        raise _bad_value(key, text, origin) from None
    return text


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _flatten(settings: Settings) -> dict[str, object]:
    return {
        f"{section}.{name}": value
        for section, table in settings.model_dump().items()
        for name, value in cast("dict[str, object]", table).items()
    }


def _validated(given: _Layer) -> Settings:
    nested: dict[str, dict[str, object]] = {section: {} for section in Settings.model_fields}
    for key, one in given.items():
        section, name = key.split(".")
        nested[section][name] = _frozen(one.value)
    try:
        return Settings.model_validate(nested)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"][:2])
    if key not in given:
        raise ConfigError(str(_defaults_file()), key, "the default is missing")
    raise _bad_value(key, given[key].value, given[key].origin)


def _frozen(value: object) -> object:
    """Strict models take no list for a tuple."""
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value


# -- errors -----------------------------------------------------------------------------------------------------------


def _known(key: str, origin: Origin) -> str:
    if key not in setting_types():
        raise _unknown(key, origin, list(setting_types()))
    return key


def _unknown(key: str, origin: Origin, known: list[str]) -> ConfigError:
    """A key in the wrong section is as likely as a misspelt one."""
    leaf = key.rpartition(".")[2]
    moved = [one for one in known if one.endswith(f".{leaf}")]
    close = moved or difflib.get_close_matches(key, known, n=1)
    hint = f"Did you mean {close[0]}?" if close else "`gemma-mcp config` lists every key."
    return ConfigError(str(origin), key, "there is no such setting", hint)


def _bad_value(key: str, value: object, origin: Origin) -> ConfigError:
    wanted = "valid Unicode" if isinstance(value, str) and _has_surrogates(value) else _expectation(key)
    return ConfigError(str(origin), key, f"this must be {wanted}, not {_shown(value)}")


def _has_surrogates(text: str) -> bool:
    """Python's stand-ins for bytes of the environment that are not UTF-8; no JSON can carry them."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _bad_toml(path: Path, text: str, error: tomllib.TOMLDecodeError) -> ConfigError:
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error), re.DOTALL)
    why, line = (found[1], found[2]) if found else (str(error), None)
    number = line or max(1, len(list(StringIO(text))))
    why = "a key or section is given twice" if "overwrite" in why or "twice" in why else as_clause(why)
    return ConfigError(f"{path}:{number}", "TOML", why)


def _expectation(key: str) -> str:
    """What a key takes, in plain words, out of the schema that checks it."""
    section, name = key.split(".")
    table = cast("type[BaseModel]", Settings.model_fields[section].annotation)
    schema: dict[str, Any] = table.model_json_schema()["properties"][name]
    if "expected" in schema:
        return schema["expected"]
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    kinds = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "array": "a list of texts"}
    text = "text that is not empty" if schema.get("minLength") else "text"
    return kinds.get(schema["type"], text) + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "up to"}
    return "".join(f" {word} {_plain(schema[name])}" for name, word in words.items() if name in schema)


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _statement_lines(text: str) -> dict[tuple[str, ...], int]:
    """The line on which each section and key of valid TOML is given, which tomllib does not tell.

    A statement is taken line by line until it parses by itself; then it names its key. Only the last line of a value
    over several lines completes it, so that nothing inside a text or list is taken for a key. Only LF ends a line
    in TOML; `splitlines` would take a line separator in a comment for an end, too.
    """
    lines: dict[tuple[str, ...], int] = {}
    section: tuple[str, ...] = ()
    statement, start = "", 1
    for number, line in enumerate(StringIO(text), 1):
        statement += line
        try:
            data = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        paths = list(_paths(data))
        if statement.lstrip().startswith("["):
            section = paths[-1]
            paths = [section[: depth + 1] for depth in range(len(section))]
        else:
            paths = [section + path for path in paths]
        for path in paths:
            lines.setdefault(path, start)
        statement, start = "", number + 1
    return lines


def _paths(table: Mapping[str, object]) -> Iterator[tuple[str, ...]]:
    for key, value in table.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *rest) for rest in _paths(cast("dict[str, object]", value)))
