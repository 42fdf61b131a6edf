from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, METHOD_NOT_FOUND, MISSING_REQUIRED_CLIENT_CAPABILITY
from scripted_engine import ScriptedEngines, chunk, finished, home_of, said, settings, texts
from task_client import WithTasks, ask, start, wait_for

from gemma_mcp.server.app import build_server
from gemma_mcp.server.tasks import EXTENSION


@asynccontextmanager
async def client_of(
    engines: ScriptedEngines, project: Path, *, after: float = 0.0, declares: bool = True, **changes: Any
) -> AsyncGenerator[Client]:
    """A client of a server whose calls become tasks after so many seconds."""
    given = settings(**changes, task_after_seconds=after)
    server = build_server(engines, given, project, home_of(project))
    async with Client(server, mode="2026-07-28", extensions=[WithTasks()] if declares else []) as client:
        yield client


async def test_a_call_that_lasts_becomes_a_task_that_tells_what_goes_on(
    engines: ScriptedEngines, project: Path
) -> None:
    loaded, more = anyio.Event(), anyio.Event()
    engines.play([chunk(loading=0.4), loaded, said("the newest text"), more, finished()])
    async with client_of(engines, project, progress_interval=0.1) as client:
        handle = await start(client, "generate_text", prompt="x")
        assert handle.status == "working"
        await wait_for(client, handle.task_id, "loading 40 %")
        loaded.set()
        state = await wait_for(client, handle.task_id, "the newest text")
        assert len(state.status_message) <= 200
        assert state.result is None
        more.set()
        state = await wait_for(client, handle.task_id, "completed")
        assert state.result is not None
        assert state.result["content"][0]["text"] == "the newest text"
        again = await ask(client, "get", handle.task_id)
        assert again.result == state.result


async def test_a_call_that_is_done_soon_is_answered_at_once(engines: ScriptedEngines, project: Path) -> None:
    async with client_of(engines, project, after=20) as client:
        result = await client.session.call_tool("generate_text", {"prompt": "x"})
        assert texts(result)[0] == "fine"
        with pytest.raises(MCPError) as caught:
            await client.session.call_tool("generate_txt", {"prompt": "x"})
    assert caught.value.error.code == INVALID_PARAMS


async def test_a_client_that_does_not_declare_the_extension_never_sees_a_task(
    engines: ScriptedEngines, project: Path
) -> None:
    async with client_of(engines, project, declares=False) as client:
        assert texts(await client.call_tool("generate_text", {"prompt": "x"}))[0] == "fine"
        with pytest.raises(MCPError) as caught:
            await ask(client, "get", "anything")
    assert caught.value.error.code == MISSING_REQUIRED_CLIENT_CAPABILITY


async def test_the_older_protocol_has_no_such_tasks(engines: ScriptedEngines, project: Path) -> None:
    server = build_server(engines, settings(), project, home_of(project))
    async with Client(server, mode="legacy", extensions=[WithTasks()]) as client:
        assert texts(await client.call_tool("generate_text", {"prompt": "x"}))[0] == "fine"
        with pytest.raises(MCPError) as caught:
            await ask(client, "get", "anything")
    assert caught.value.error.code == METHOD_NOT_FOUND


async def test_a_server_says_that_it_knows_tasks(engines: ScriptedEngines, project: Path) -> None:
    async with Client(build_server(engines, settings(), project, home_of(project))) as client:
        assert EXTENSION in (client.server_capabilities.extensions or {})


async def test_a_cancelled_task_leaves_the_engine_and_stays_cancelled(engines: ScriptedEngines, project: Path) -> None:
    engines.play([said("some text"), anyio.Event()])
    async with client_of(engines, project) as client:
        handle = await start(client, "generate_text", prompt="x")
        await wait_for(client, handle.task_id, "some text")
        await ask(client, "cancel", handle.task_id)
        assert engines.busy == 0
        assert (await ask(client, "get", handle.task_id)).status == "cancelled"
        await ask(client, "cancel", handle.task_id)
        assert (await ask(client, "get", handle.task_id)).status == "cancelled"


async def test_a_task_that_its_client_does_not_fetch_is_forgotten(engines: ScriptedEngines, project: Path) -> None:
    never = anyio.Event()
    engines.play([said("done"), finished()], [said("x"), never])
    async with client_of(engines, project, task_max_seconds=0.2, task_keep_seconds=0.3) as client:
        done = await start(client, "generate_text", prompt="x")
        running = await start(client, "generate_text", prompt="x", max_seconds=0.1)
        assert (done.ttl_ms, running.ttl_ms) == (500, 400)
        for handle in (done, running):
            with anyio.fail_after(20), pytest.raises(MCPError) as caught:
                await wait_for(client, handle.task_id, "no such state")
            assert caught.value.error.code == INVALID_PARAMS
        assert engines.busy == 0


async def test_the_oldest_result_makes_room_for_a_new_task(engines: ScriptedEngines, project: Path) -> None:
    go = anyio.Event()
    engines.play([go, said("first"), finished()], [anyio.Event()], [said("plain"), finished()])
    async with client_of(engines, project, max_tasks=2) as client:
        first = await start(client, "generate_text", prompt="x")
        go.set()
        await wait_for(client, first.task_id, "completed")
        second = await start(client, "generate_text", prompt="x")
        with anyio.fail_after(20):
            while engines.busy == 0:
                await anyio.lowlevel.checkpoint()
        third = await start(client, "generate_text", prompt="x")
        await wait_for(client, third.task_id, "completed")
        with pytest.raises(MCPError):
            await ask(client, "get", first.task_id)
        assert (await ask(client, "get", second.task_id)).status == "working"


async def test_a_call_beyond_the_tasks_that_may_run_is_answered_without_one(
    engines: ScriptedEngines, project: Path
) -> None:
    engines.play([anyio.Event()], [said("plain"), finished()])
    async with client_of(engines, project, max_tasks=1) as client:
        await start(client, "generate_text", prompt="x")
        with anyio.fail_after(20):
            await engines.entered.wait()
        assert texts(await client.session.call_tool("generate_text", {"prompt": "x"}))[0] == "plain"


async def test_a_task_has_more_time_than_a_request(engines: ScriptedEngines, project: Path) -> None:
    async with client_of(engines, project, after=20, task_max_seconds=900.0) as client:
        await client.call_tool("generate_text", {"prompt": "x"})
        await client.call_tool("generate_text", {"prompt": "x", "max_seconds": 5})
    async with client_of(engines, project, declares=False) as client:
        await client.call_tool("generate_text", {"prompt": "x"})
    free, asked, request = (request.deadline_seconds or 0 for request in engines.requests)
    assert 800 < free <= 900
    assert asked <= 5
    assert 5 < request <= 50


async def test_a_cancelled_request_ends_the_task_that_it_would_have_become(
    engines: ScriptedEngines, project: Path
) -> None:
    engines.play([anyio.Event()])
    async with client_of(engines, project, after=20) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "generate_text", {"prompt": "x"})
            await engines.entered.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(5):
            await engines.left.wait()
    assert engines.busy == 0


async def test_a_refused_call_is_a_task_that_completed_with_an_error(engines: ScriptedEngines, project: Path) -> None:
    async with client_of(engines, project) as client:
        result = await client.call_tool("generate_text", {"prompt": ""})
    assert result.is_error
    assert "prompt" in texts(result)[0]


async def test_a_server_that_ends_leaves_no_generation_behind(engines: ScriptedEngines, project: Path) -> None:
    engines.play([anyio.Event()])
    async with client_of(engines, project) as client:
        await start(client, "generate_text", prompt="x")
        await engines.entered.wait()
    assert engines.busy == 0
