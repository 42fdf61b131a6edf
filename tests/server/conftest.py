"""Clients of a server on a scripted engine."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from scripted_engine import Connect, ScriptedEngines, settings

from gemma_mcp.places import Places
from gemma_mcp.server.app import build_server


@pytest.fixture
def engines() -> ScriptedEngines:
    return ScriptedEngines()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The folder that the server may read."""
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def connect(engines: ScriptedEngines, project: Path) -> Connect:
    """Opens a client of a server on the scripted engine; keywords are settings of the section `server`.

    All of them share one home folder, as the servers of one user do.
    """

    def open_client(mode: str = "auto", **changes: Any) -> AbstractAsyncContextManager[Client]:
        places = Places.below(project.parent / "home")
        return Client(build_server(engines, settings(**changes), project, places), mode=mode)

    return open_client
