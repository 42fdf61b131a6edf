"""Tasks over stdio and over HTTP, with a real engine that works on them."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import pytest
from http_servers import HttpServer, serving_http, wait_for_running
from http_servers import client_of as client_over_http
from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS
from scripted_engine import texts
from server_pipes import SERVE, home_in
from task_client import WithTasks, ask, start, wait_for

from gemma_mcp.testing.engines import EngineHome


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineHome]:
    """One engine, on which servers of both kinds work."""
    settings = {
        "GEMMA_MCP_HTTP_CLIENTS": '["left", "right"]',
        "GEMMA_MCP_SERVER_MAX_SECONDS": "2",
        "GEMMA_MCP_SERVER_TASK_AFTER_SECONDS": "0.5",
    }
    home = home_in(tmp_path_factory.mktemp("home"), **settings)
    yield home
    home.end()


@pytest.fixture(scope="module")
def server(home: EngineHome) -> Iterator[HttpServer]:
    """A server over HTTP with two clients."""
    with serving_http(home) as server:
        yield server


@asynccontextmanager
async def client_over_stdio(home: EngineHome, project: Path) -> AsyncGenerator[Client]:
    parameters = StdioServerParameters(command=SERVE[0], args=SERVE[1:], env=home.environ, cwd=project)
    async with Client(parameters, mode="2026-07-28", extensions=[WithTasks()]) as client:
        yield client


@pytest.fixture(params=["stdio", "http"])
def connection(
    request: pytest.FixtureRequest, home: EngineHome, server: HttpServer, project: Path
) -> AbstractAsyncContextManager[Client]:
    """A client that declares tasks, over either transport."""
    if request.param == "stdio":
        return client_over_stdio(home, project)
    return client_over_http(server.url, server.token("left"), extensions=[WithTasks()])


async def test_a_call_outlives_the_time_that_a_request_has(connection: AbstractAsyncContextManager[Client]) -> None:
    """The time box of a request is 2 s here."""
    async with connection as client:
        result = await client.call_tool("generate_text", {"prompt": "!slow 0.1 " + "x" * 30})
    assert texts(result)[0] == "x" * 30
    assert " stop " in texts(result)[1]


async def test_text_shows_before_the_end_and_a_cancel_stops_the_engine(
    connection: AbstractAsyncContextManager[Client], home: EngineHome
) -> None:
    async with connection as client:
        handle = await start(client, "generate_text", prompt="!slow 0.05 " + "y" * 2000)
        await wait_for(client, handle.task_id, "yyy")
        await wait_for_running(home, 1)
        await ask(client, "cancel", handle.task_id)
        assert (await ask(client, "get", handle.task_id)).status == "cancelled"
        await wait_for_running(home, 0)


async def test_a_task_waits_for_its_client_to_come_back_and_for_no_other(
    server: HttpServer, home: EngineHome, tmp_path: Path
) -> None:
    left = [server.url, server.token("left")]
    async with client_over_http(*left, extensions=[WithTasks()]) as client:
        handle = await start(client, "generate_text", prompt=f"!hold {tmp_path / 'go'} kept")
        await wait_for_running(home, 1)
    async with client_over_http(server.url, server.token("right"), extensions=[WithTasks()]) as client:
        for method in ("get", "cancel"):
            with pytest.raises(MCPError) as caught:
                await ask(client, method, handle.task_id)
            assert caught.value.error.code == INVALID_PARAMS
    (tmp_path / "go").touch()
    async with client_over_http(*left, extensions=[WithTasks()]) as client:
        state = await wait_for(client, handle.task_id, "completed")
    assert state.result is not None
    assert state.result["content"][0]["text"] == "kept"


async def test_the_end_of_a_server_ends_its_tasks(home: EngineHome, project: Path) -> None:
    async with client_over_stdio(home, project) as client:
        await start(client, "generate_text", prompt=f"!hold {project / 'never'} x")
        await wait_for_running(home, 1)
    with anyio.fail_after(20):
        await wait_for_running(home, 0)
