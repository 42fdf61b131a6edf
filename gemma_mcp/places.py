"""Where files live: everything that is read or written for the user is below one of these folders."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from gemma_mcp.errors import ConfigError

__all__ = ["HOME_VARIABLE", "UNEXPANDED", "Places", "absolute_path", "is_unset"]

HOME_VARIABLE = "GEMMA_MCP_HOME"

UNEXPANDED = re.compile(r"\$\{[^{}]*\}")
"""A variable in the way that clients write it in their configuration."""


def is_unset(text: str) -> bool:
    """Whether an environment variable of that value counts as unset: all of it is blank, or one `${...}`.

    Clients pass on such values when they have nothing to put in. With other text around it a `${...}` was meant to
    become a part of the value, so it does not count as unset.
    """
    return not text.strip() or UNEXPANDED.fullmatch(text.strip()) is not None


def absolute_path(name: str, text: str) -> Path:
    """The path in an environment variable; "~" is replaced. Processes have other working folders, so a relative path
    is a ConfigError, and one with a variable left in it as well.
    """
    if UNEXPANDED.search(text):
        why = f"{text!r} holds a variable that was not expanded"
        raise ConfigError("environment", name, why, "Write the path itself.")
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError("environment", name, f"there is no such home folder as in {text!r}") from error
    if not path.is_absolute():
        raise ConfigError("environment", name, f"{text!r} is not an absolute path")
    return path


@dataclass(frozen=True)
class Places:
    """The folders of one user. They are made by whoever first writes to them, readable by the user alone.

    `config_file` is the user's settings; `models` holds downloaded weights; `state` is where a running engine says how
    to reach it; `logs` is what the engine and its workers wrote; `sessions` holds the conversations of `chat`, `maps`
    the results of `map_files`; `data` is what else is kept for the user, such as figures.
    """

    config_file: Path
    models: Path
    state: Path
    logs: Path
    cache: Path
    sessions: Path
    maps: Path
    data: Path

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> "Places":
        """Below GEMMA_MCP_HOME when that is set, else in the platform's usual places."""
        home = environ.get(HOME_VARIABLE, "")
        if not is_unset(home):
            return cls.below(absolute_path(HOME_VARIABLE, home))
        dirs = platformdirs.PlatformDirs("gemma-mcp", appauthor=False)
        return cls(
            config_file=dirs.user_config_path / "config.toml",
            models=dirs.user_data_path / "models",
            state=dirs.user_state_path / "run",
            logs=dirs.user_log_path,
            cache=dirs.user_cache_path,
            sessions=dirs.user_data_path / "sessions",
            maps=dirs.user_data_path / "maps",
            data=dirs.user_data_path,
        )

    def sessions_of(self, client: str) -> Path:
        """The conversations of a client of `serve --http` that the configuration names."""
        return self.sessions / "clients" / client

    def maps_of(self, client: str) -> Path:
        """The results of such a client."""
        return self.maps / "clients" / client

    @classmethod
    def below(cls, home: Path) -> "Places":
        """All of them in one folder, an absolute path."""
        return cls(
            config_file=home / "config.toml",
            models=home / "models",
            state=home / "run",
            logs=home / "logs",
            cache=home / "cache",
            sessions=home / "sessions",
            maps=home / "maps",
            data=home / "data",
        )
