"""Clients of a server on a scripted engine."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from map_calls import MapEngines, Mapper
from mcp import Client
from scripted_engine import Connect, ScriptedEngines, home_of, settings

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
def places(project: Path) -> Places:
    """The folders of the servers' user."""
    return home_of(project)


@pytest.fixture
def connect(engines: ScriptedEngines, project: Path, places: Places) -> Connect:
    """Opens a client of a server on the scripted engine; keywords are settings of the section `server`.

    All of them share one home folder, as the servers of one user do.
    """

    def open_client(mode: str = "auto", **changes: Any) -> AbstractAsyncContextManager[Client]:
        return Client(build_server(engines, settings(**changes), project, places), mode=mode)

    return open_client


@pytest.fixture
def mapping() -> MapEngines:
    """The engine of `mapper`."""
    return MapEngines()


@pytest.fixture
def mapper(mapping: MapEngines, project: Path) -> Mapper:
    """Calls `map_files`."""
    return Mapper(mapping, project)
