"""The path policy of a client that has no project folder, as over HTTP, where it has no working folder either."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.inputs.path_forms import shorten
from gemma_mcp.server.inputs.paths import PathPolicy

__all__ = ["NoFiles"]


@dataclass(frozen=True)
class NoFiles(PathPolicy):
    """Refuses every path and says how to configure a folder. Its root is below a file, so that nothing can be there."""

    root: Path = Path(os.devnull) / "no project folder"

    def find(self, path: str) -> NoReturn:
        """Raises InputRefusedError."""
        raise _refused(shorten(path) or "''")

    def project(self) -> NoReturn:
        """Raises InputRefusedError."""
        raise _refused("files")


def _refused(what: str) -> InputRefusedError:
    hint = 'Name one in the configuration: http.clients = ["NAME=/path/to/project"].'
    return InputRefusedError(what, "this client has no project folder", hint)
