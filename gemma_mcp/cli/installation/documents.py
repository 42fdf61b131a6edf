"""The kinds of configuration files that clients have: how an entry is found, put in and taken out."""

import contextlib
import json
import tomllib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from gemma_mcp.cli.installation import edits, jsonc
from gemma_mcp.errors import ConfigError

__all__ = ["Document", "JsonDocument", "TomlDocument"]

UNTOUCHED = "Mend the file first; nothing was changed."


class Document(Protocol):
    """A kind of file. `where` names the file in errors; all raise ConfigError for a text that is not of the kind."""

    def entry(self, where: Path, text: str, name: str) -> object | None:
        """The server's entry of that name; None when there is none."""
        ...

    def with_entry(self, where: Path, text: str, name: str, entry: Mapping[str, Any]) -> str:
        """The text with the entry, and everything else as it was."""
        ...

    def without_entry(self, where: Path, text: str, name: str) -> str:
        """The text without the entry that is there, and everything else as it was."""
        ...


@dataclass(frozen=True)
class JsonDocument:
    """Entries are members of the object `key`. With `comments` the client reads those too, and trailing commas."""

    key: str
    comments: bool = False

    def entry(self, where: Path, text: str, name: str) -> object | None:
        """See Document."""
        return _entry(self._parse(where, text), self.key, name)

    def with_entry(self, where: Path, text: str, name: str, entry: Mapping[str, Any]) -> str:
        """See Document."""
        before = self._parse(where, text)
        _servers(where, before, self.key)
        with _refusing(where):
            after = edits.inserted(text if text.strip() else "{}\n", (self.key, name), entry)
        return self._checked(where, after, _with(before, self.key, name, entry))

    def without_entry(self, where: Path, text: str, name: str) -> str:
        """See Document."""
        before = self._parse(where, text)
        with _refusing(where):
            after = edits.removed(text, (self.key, name))
        return self._checked(where, after, _without(before, self.key, name))

    def _checked(self, where: Path, after: str, expected: object) -> str:
        if self._parse(where, after) != expected:
            raise _unedited(where)
        return after

    def _parse(self, where: Path, text: str) -> dict[str, Any]:
        if not text.strip():
            return {}
        try:
            with _refusing(where):
                value = jsonc.parse(text)[0].value if self.comments else json.loads(text)
        except json.JSONDecodeError as error:
            raise _broken(where, error.lineno, error.colno, error.msg) from None
        except RecursionError:
            raise ConfigError(str(where), "the whole", "it is nested too deep", UNTOUCHED) from None
        if not isinstance(value, dict):
            raise ConfigError(str(where), "the whole", "it is no JSON object", UNTOUCHED)
        return cast("dict[str, Any]", value)


@dataclass(frozen=True)
class TomlDocument:
    """Entries are tables below the table `key`."""

    key: str

    def entry(self, where: Path, text: str, name: str) -> object | None:
        """See Document."""
        return _entry(self._parse(where, text), self.key, name)

    def with_entry(self, where: Path, text: str, name: str, entry: Mapping[str, Any]) -> str:
        """See Document."""
        before = self._parse(where, text)
        if name in _servers(where, before, self.key):
            return self.with_entry(where, self.without_entry(where, text, name), name, entry)
        expected = _with(before, self.key, name, entry)
        after = next((after for after in self._written(text, name, entry) if _toml(after) == expected), None)
        if after is None:
            raise _unedited(where)
        return after

    def without_entry(self, where: Path, text: str, name: str) -> str:
        """See Document. Lines are taken out where the entry is a table of its own: comments after it are the user's."""
        before = self._parse(where, text)
        expected = _without(before, self.key, name)
        accepted = [expected]
        if not expected[self.key]:  # a table that only its subtables had named goes with the last of them
            accepted.append({key: value for key, value in expected.items() if key != self.key})
        after = self._without_lines(text, name, accepted)
        after = self._without_items(text, name) if after is None else after
        if _toml(after) not in accepted:
            raise _unedited(where)
        return after

    def _without_lines(self, text: str, name: str, accepted: list[dict[str, Any]]) -> str | None:
        """The fewest lines from the entry's header on without which the rest is what it shall be."""
        lines = text.splitlines(keepends=True)
        for start in (number for number, line in enumerate(lines) if _is_header(line, self.key, name)):
            head = "".join(lines[: start - 1 if start and not lines[start - 1].strip() else start])
            for end in range(start + 1, len(lines) + 1):
                rest = head + "".join(lines[end:])
                if _toml(rest) in accepted:
                    return rest
        return None

    def _without_items(self, text: str, name: str) -> str:
        """For an entry that is part of an inline table, or written as dotted keys."""
        import tomlkit
        from tomlkit.exceptions import TOMLKitError

        try:
            document = cast("dict[str, Any]", tomlkit.parse(text))
            del document[self.key][name]
            return tomlkit.dumps(document)
        except TOMLKitError:
            return text  # which is not what is asked for, and is refused as such

    def _written(self, text: str, name: str, entry: Mapping[str, Any]) -> Iterator[str]:
        """Ways to put an entry in; which of them is right shows when the text is read again."""
        import tomlkit
        from tomlkit.exceptions import TOMLKitError

        yield self._appended(text, name, entry)
        with contextlib.suppress(TOMLKitError):  # the servers are an inline table, which a header cannot add to
            document = cast("dict[str, Any]", tomlkit.parse(text))
            document[self.key][name] = _inline(entry)
            yield tomlkit.dumps(document)

    def _appended(self, text: str, name: str, entry: Mapping[str, Any]) -> str:
        """A table of its own at the end of the file, which is where people put one, too."""
        import tomlkit

        table = tomlkit.dumps({self.key: {name: _table(entry)}}).partition("]\n")[2]
        newline = "\r\n" if "\r\n" in text else "\n"
        gap = "" if not text.strip() else newline if text.endswith("\n") else newline * 2
        header = f"[{self.key}.{tomlkit.key(name).as_string()}]\n"
        return text + gap + (header + table).replace("\n", newline)

    def _parse(self, where: Path, text: str) -> dict[str, Any]:
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(str(where), "the whole", f"it is not TOML: {error}", UNTOUCHED) from None


def _toml(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _is_header(line: str, key: str, name: str) -> bool:
    return line.lstrip().startswith("[") and _toml(line) == {key: {name: {}}}


def _table(entry: Mapping[str, Any]) -> Any:
    """A table on lines of its own, with what is nested on one line."""
    import tomlkit

    table = tomlkit.table()
    for key, value in entry.items():
        table[key] = _inline(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else value
    return table


def _inline(entry: Mapping[str, Any]) -> Any:
    import tomlkit

    table = tomlkit.inline_table()
    for key, value in entry.items():
        table[key] = _inline(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else value
    return table


def _entry(whole: Mapping[str, Any], key: str, name: str) -> object | None:
    servers = whole.get(key)
    return cast("dict[str, Any]", servers).get(name) if isinstance(servers, dict) else None


def _servers(where: Path, whole: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    servers = whole.get(key, {})
    if not isinstance(servers, dict):
        raise ConfigError(str(where), key, "it does not hold servers by their names", UNTOUCHED)
    return cast("dict[str, Any]", servers)


def _with(whole: Mapping[str, Any], key: str, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**whole, key: {**whole.get(key, {}), name: entry}}


def _without(whole: Mapping[str, Any], key: str, name: str) -> dict[str, Any]:
    return {**whole, key: {other: value for other, value in whole[key].items() if other != name}}


@contextlib.contextmanager
def _refusing(where: Path) -> Generator[None]:
    """Python reads NaN and nests deeper, so an edit may find fault with what was read before."""
    try:
        yield
    except jsonc.JsoncError as error:
        raise _broken(where, error.line, error.column, str(error)) from None


def _broken(where: Path, line: int, column: int, why: str) -> ConfigError:
    return ConfigError(str(where), f"line {line}, column {column}", f"it is not valid JSON: {why}", UNTOUCHED)


def _unedited(where: Path) -> ConfigError:
    hint = "Add the entry by hand: `gemma-mcp install --print` shows it."
    return ConfigError(str(where), "the whole", "it is written in a way that cannot be edited safely", hint)
