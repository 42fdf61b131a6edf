"""What one call of the command line was given: the environment and the settings set by flags."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import click

from gemma_mcp.errors import ConfigError
from gemma_mcp.places import Places
from gemma_mcp.settings_sources import LoadedSettings, load_settings

__all__ = ["Invocation", "overriding", "parse_overrides"]

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass
class Invocation:
    """Settings are read when a command asks for them: `doctor` must run where they are wrong, `--version` without."""

    environ: Mapping[str, str]
    overrides: dict[str, str] = field(default_factory=dict[str, str])
    client: str | None = None
    """The client of `serve --http` whose conversations are meant; None for the user's own."""

    @cached_property
    def places(self) -> Places:
        """The user's folders."""
        return Places.find(self.environ)

    @cached_property
    def loaded(self) -> LoadedSettings:
        """The settings in force. Raises ConfigError."""
        return load_settings(self.environ, self.overrides, self.places)


def parse_overrides(texts: Iterable[str]) -> dict[str, str]:
    """Settings by key out of `key=value` texts. Raises ConfigError for another form, and for a key given twice."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError("--set", repr(text), "this is not of the form key=value", "Example: --set engine.port=0")
        if key.strip() in found:
            raise ConfigError("--set", key.strip(), "this is given twice")
        found[key.strip()] = value
    return found


def overriding(command: Command) -> Command:
    """Give a command the option `--set`, which may stand before it and after it."""

    def take(context: click.Context, _: click.Parameter, texts: tuple[str, ...]) -> None:
        given = context.find_object(Invocation)
        assert given is not None
        given.overrides = parse_overrides([f"{key}={value}" for key, value in given.overrides.items()] + list(texts))

    help_text = "Override a setting for this call; may be repeated."
    option = click.option(
        "--set", multiple=True, metavar="KEY=VALUE", expose_value=False, callback=take, help=help_text
    )
    return option(command)
