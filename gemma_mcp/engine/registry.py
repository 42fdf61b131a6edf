"""Which backends are installed. Each is imported when it is first asked for; its runtime never is, in this process."""

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

from gemma_mcp.engine.backend import Backend
from gemma_mcp.errors import BackendError, BackendMissingError, ConfigError

__all__ = ["GROUP", "Registry"]

GROUP = "gemma_mcp.backends"


class Registry:
    """Backends by name, out of the entry points of the installed packages."""

    def __init__(self, entries: Iterable[EntryPoint]) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self._backends: dict[str, Backend] = {}

    @classmethod
    def installed(cls) -> "Registry":
        """Those of this interpreter."""
        return cls(entry_points(group=GROUP))

    def names(self) -> list[str]:
        """All of them, in alphabetical order, whether their runtimes are installed or not."""
        return sorted(self._entries)

    def backend(self, name: str) -> Backend:
        """The backend. Raises ConfigError for a name that does not exist, BackendError when its code cannot be read."""
        if name not in self._entries:
            raise ConfigError("settings", "backend.name", f"there is no backend {name!r}", self._choices())
        if name not in self._backends:
            entry = self._entries[name]
            try:
                self._backends[name] = entry.load()()
            except Exception as error:  # a stranger's package: anything can go wrong in it
                raise BackendError(
                    f"The backend {name!r} ({entry.value}) cannot be imported: {error}.", "Install it once more."
                ) from error
        return self._backends[name]

    def ready(self, name: str) -> Backend:
        """The backend, with its runtime installed. Raises BackendMissingError as well."""
        backend = self.backend(name)
        command = backend.missing()
        if command is not None:
            raise BackendMissingError(name, command)
        return backend

    def _choices(self) -> str:
        return f"Installed backends: {', '.join(self.names()) or 'none'}."
