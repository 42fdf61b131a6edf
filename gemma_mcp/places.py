"""Where files live: everything that is read or written for the user is below one of these folders."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from gemma_mcp.errors import ConfigError

__all__ = ["HOME_VARIABLE", "Places"]

HOME_VARIABLE = "GEMMA_MCP_HOME"


@dataclass(frozen=True)
class Places:
    """The folders of one user. They are made by whoever first writes to them, readable by the user alone.

    `config_file` is the user's settings; `models` holds downloaded weights; `state` is where a running engine says how
    to reach it; `logs` is what the engine and its workers wrote; `sessions` holds the conversations of `chat`.
    """

    config_file: Path
    models: Path
    state: Path
    logs: Path
    cache: Path
    sessions: Path

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> "Places":
        """Below GEMMA_MCP_HOME when that is set, else in the platform's usual places."""
        home = environ.get(HOME_VARIABLE, "")
        if home and not home.startswith("${"):
            return cls.below(Path(home))
        dirs = platformdirs.PlatformDirs("gemma-mcp", appauthor=False)
        return cls(
            config_file=dirs.user_config_path / "config.toml",
            models=dirs.user_data_path / "models",
            state=dirs.user_state_path / "run",
            logs=dirs.user_log_path,
            cache=dirs.user_cache_path,
            sessions=dirs.user_data_path / "sessions",
        )

    @classmethod
    def below(cls, home: Path) -> "Places":
        """All of them in one folder, which must be given as an absolute path: processes have other working folders."""
        home = home.expanduser()
        if not home.is_absolute():
            raise ConfigError("environment", HOME_VARIABLE, f"{str(home)!r} is not an absolute path")
        return cls(
            config_file=home / "config.toml",
            models=home / "models",
            state=home / "run",
            logs=home / "logs",
            cache=home / "cache",
            sessions=home / "sessions",
        )
