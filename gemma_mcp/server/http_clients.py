"""Who may ask over HTTP: the clients of the configuration, and the token of each, made when it is first needed.

The tokens are in a file of their own in the user's private folder, not in the configuration, which people show around.
"""

import os
import re
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from filelock import FileLock

from gemma_mcp.errors import ConfigError
from gemma_mcp.places import Places
from gemma_mcp.settings import Settings
from gemma_mcp.state import private_folder, write_private

__all__ = ["HttpClient", "Tokens", "configured_clients", "maps_of", "sessions_of"]

DEFAULT_CLIENT = "default"

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
"""It names a folder, too; so `..` is none, and names that differ only in case are one."""

LOCK_SECONDS = 10.0


@dataclass(frozen=True)
class HttpClient:
    """A client by its name, and the project folder whose files it may name, if any."""

    name: str
    root: Path | None


def configured_clients(settings: Settings) -> tuple[HttpClient, ...]:
    """The clients of `http.clients`, or one. Raises ConfigError for an entry that makes no sense."""
    usual = Path(settings.server.root).expanduser() if settings.server.root else None
    clients = tuple(_client(entry, usual) for entry in settings.http.clients or (DEFAULT_CLIENT,))
    names = [client.name.lower() for client in clients]
    for name in names:
        if names.count(name) > 1:
            raise _wrong(f"{name!r} is given twice")
    return clients


def sessions_of(client: str, settings: Settings, places: Places) -> Path:
    """Where a client's conversations are. Clients that were told apart share none: one could read there what only
    another may read.
    """
    return places.sessions_of(client) if settings.http.clients else places.sessions


def maps_of(client: str, settings: Settings, places: Places) -> Path:
    """Where a client's results of `map_files` are, for the same reason: a result tells what is in a file."""
    return places.maps_of(client) if settings.http.clients else places.maps


def _client(entry: str, usual: Path | None) -> HttpClient:
    name, equals, folder = entry.partition("=")
    if not NAME.fullmatch(name) or bool(equals) != bool(folder):
        raise _wrong(f"{entry[:60]!r} is not of the form NAME=FOLDER")
    root = Path(folder).expanduser() if folder else usual
    if root is not None and not root.is_absolute():
        raise _wrong(f"{str(root)!r} is not an absolute path")
    return HttpClient(name, root)


def _wrong(why: str) -> ConfigError:
    return ConfigError("settings", "http.clients", why, 'Example: ["laptop=/home/me/project"].')


class Tokens:
    """The file of tokens, readable by the user alone. Methods raise ConfigError when it is not to be trusted."""

    def __init__(self, places: Places) -> None:
        self._path = places.state / "http-tokens.json"

    def of(self, names: Iterable[str], *, renew: bool = False) -> dict[str, str]:
        """The token of each name. Those that do not exist yet are made; `renew` makes all of them anew."""
        folder = private_folder(self._path.parent)
        with FileLock(folder / "http-tokens.lock", timeout=LOCK_SECONDS):
            known = self._read()
            wanted = {name: known.get(name) for name in names}
            tokens = {name: secrets.token_urlsafe(32) if renew or not old else old for name, old in wanted.items()}
            if tokens != wanted:
                write_private(self._path, msgspec.json.encode(known | tokens))
        return tokens

    def _read(self) -> dict[str, str]:
        try:
            data = self._path.read_bytes()
            mode = self._path.stat().st_mode
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._distrusted(f"it cannot be read ({error.strerror})") from None
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise self._distrusted("other users can read it")
        try:
            return msgspec.json.decode(data, type=dict[str, str])
        except ValueError:
            raise self._distrusted("it is damaged") from None

    def _distrusted(self, why: str) -> ConfigError:
        return ConfigError(str(self._path), "file", why, "Delete it; new tokens are made when they are needed.")
