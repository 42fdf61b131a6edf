"""Sessions as clients see them: the tool `chat` on a store, forks, transcripts, and a store that is of no use."""

import re
from pathlib import Path
from typing import Any

import anyio
import pytest
from filelock import FileLock
from mcp import Client, MCPError
from mcp.types import INVALID_PARAMS, TextResourceContents
from scripted_engine import Connect, ScriptedEngines, chunk, error_of, finished, said, texts
from session_stores import WIDE

from gemma_mcp.server.sessions import Sessions, SessionStore
from gemma_mcp.wire import ChatCompletionRequest, ChatMessage, GeneratedTokens


@pytest.fixture
def store(project: Path) -> SessionStore:
    """The one that the servers use."""
    return SessionStore(project.parent / "home" / "sessions", WIDE)


async def say(client: Client, message: str, **arguments: Any) -> str:
    """The session."""
    result = await client.call_tool("chat", {"message": message, **arguments})
    assert not result.is_error, result.content
    match = re.search(r"session (s-\w+)", texts(result)[1])
    assert match
    return match[1]


def asked(engines: ScriptedEngines) -> tuple[ChatMessage, ...]:
    request = engines.requests[-1]
    assert isinstance(request, ChatCompletionRequest)
    return request.messages


def contents(engines: ScriptedEngines) -> list[object]:
    return [message.content for message in asked(engines)]


async def test_a_session_outlives_its_server(connect: Connect, engines: ScriptedEngines) -> None:
    async with connect() as client:
        session = await say(client, "one", system="Be brief.", model="other")
    async with connect() as client:
        assert await say(client, "two", session=session) == session
    assert contents(engines) == ["Be brief.", "one", "fine", "two"]
    assert engines.requests[-1].model == "other"


async def test_a_fork_goes_on_beside_its_origin(connect: Connect, engines: ScriptedEngines) -> None:
    async with connect() as client:
        origin = await say(client, "one", system="Be brief.")
        result = await client.call_tool("chat", {"message": "two", "session": origin, "fork": True})
        line = texts(result)[1]
        assert f"forked from {origin}" in line
        fork = line.partition("session ")[2].split()[0]
        assert fork != origin
        assert contents(engines) == ["Be brief.", "one", "fine", "two"]
        await say(client, "three", session=fork)
        assert contents(engines)[1:] == ["one", "fine", "two", "fine", "three"]
        await say(client, "another two", session=origin)
        assert contents(engines)[1:] == ["one", "fine", "another two"]


async def test_a_fork_does_not_wait_for_a_turn_of_its_origin(connect: Connect, engines: ScriptedEngines) -> None:
    gate = anyio.Event()
    engines.play([said("one"), finished()], [gate, said("two"), finished()], [said("forked"), finished()])
    async with connect() as client:
        origin = await say(client, "a")
        engines.entered = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def turn() -> None:
                await say(client, "b", session=origin)

            tasks.start_soon(turn)
            await engines.entered.wait()
            await say(client, "c", session=origin, fork=True)
            gate.set()
    assert contents(engines) == ["a", "one", "c"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"fork": True}, "`fork` needs the `session` that is to be forked."),
        ({"fork": True, "session": "s-none"}, "There is no session 's-none'."),
        ({"fork": "yes", "session": "s-none"}, "`fork`"),
        ({"session": "../../etc"}, "There is no session '../../etc'."),
    ],
)
async def test_what_cannot_be_forked_is_refused(
    connect: Connect, engines: ScriptedEngines, arguments: dict[str, object], complaint: str
) -> None:
    async with connect() as client:
        assert complaint in error_of(await client.call_tool("chat", {"message": "x", **arguments}))
    assert not engines.requests


async def test_a_fork_that_fails_makes_no_session(connect: Connect, store: SessionStore) -> None:
    async with connect(max_images=1) as client:
        origin = await say(client, "a")
        error_of(await client.call_tool("chat", {"message": "b", "session": origin, "fork": True, "files": ["none"]}))
    assert [one.name for one in store.summaries()] == [origin]


async def test_a_reply_s_tokens_go_back_with_it(connect: Connect, engines: ScriptedEngines) -> None:
    ending = chunk(choices=[{"finish_reason": "stop"}], tokens=[7, 9], gemma={"model": "scripted", "vocabulary": "v"})
    engines.play([said("Hello "), ending])
    async with connect() as client:
        session = await say(client, "one")
        assert engines.requests[-1].return_tokens
        await say(client, "two", session=session)
        assert asked(engines)[1] == ChatMessage(
            role="assistant", content="Hello ", tokens=GeneratedTokens(ids=(7, 9), vocabulary="v")
        )
        await client.call_tool("generate_text", {"prompt": "x"})
        assert not engines.requests[-1].return_tokens


async def test_an_engine_that_tells_no_tokens_is_answered_with_text(connect: Connect, engines: ScriptedEngines) -> None:
    async with connect() as client:
        await say(client, "two", session=await say(client, "one"))
    assert asked(engines)[1] == ChatMessage(role="assistant", content="fine")


async def test_a_turn_of_another_process_is_waited_for(
    connect: Connect, engines: ScriptedEngines, store: SessionStore
) -> None:
    async with connect() as client:
        session = await say(client, "one")
        lock = FileLock(store.turn_lock(session))
        lock.acquire()
        late = await client.call_tool("chat", {"message": "x", "session": session, "max_seconds": 0.2})
        assert "An earlier turn of session" in error_of(late)
        done = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def turn() -> None:
                await say(client, "two", session=session)
                done.set()

            tasks.start_soon(turn)
            await say(client, "another session")
            assert not done.is_set()
            lock.release()
    assert contents(engines) == ["one", "fine", "two"]


async def test_a_session_that_was_deleted_during_a_turn_says_so(
    connect: Connect, engines: ScriptedEngines, store: SessionStore
) -> None:
    gate = anyio.Event()
    engines.play([said("one"), finished()], [gate, said("two"), finished()])
    async with connect() as client:
        session = await say(client, "a")
        engines.entered = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def turn() -> None:
                result = await client.call_tool("chat", {"message": "b", "session": session})
                assert "went on elsewhere or was deleted" in error_of(result)

            tasks.start_soon(turn)
            await engines.entered.wait()
            assert store.delete([session]) == [session]
            gate.set()
    assert store.summaries() == []


async def test_without_a_usable_store_chat_refuses_and_the_other_tools_go_on(
    connect: Connect, engines: ScriptedEngines, store: SessionStore
) -> None:
    async with connect() as client:
        session = await say(client, "one")
        (store.folder / "sessions.db").write_bytes(b"no database" * 500)
        count = len(engines.requests)
        for arguments in ({}, {"session": session}, {"session": session, "fork": True}):
            text = error_of(await client.call_tool("chat", {"message": "x", **arguments}))
            assert "it is damaged" in text
            assert "gemma-mcp sessions repair" in text
        assert len(engines.requests) == count
        assert texts(await client.call_tool("generate_text", {"prompt": "x"}))[0] == "fine"
        assert await Sessions(store).names("") == []
        with pytest.raises(MCPError, match="it is damaged"):
            await client.read_resource(f"gemma://sessions/{session}")


async def test_names_are_completed(connect: Connect, store: SessionStore) -> None:
    async with connect() as client:
        one, two = await say(client, "1"), await say(client, "2")
    sessions = Sessions(store)
    assert await sessions.names("") == [two, one]
    assert await sessions.names(one) == [one]
    assert await sessions.names("x") == []


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
async def test_a_transcript_can_be_read_as_markdown(connect: Connect, project: Path, era: str) -> None:
    (project / "a.txt").write_text("from a file", encoding="utf-8")
    async with connect(era) as client:
        session = await say(client, "Look.", files=["a.txt"], system="Be brief.")
        await say(client, "And?", session=session)
        (template,) = [
            one
            for one in (await client.list_resource_templates()).resource_templates
            if one.uri_template == "gemma://sessions/{id}"
        ]
        assert template.mime_type == "text/markdown"
        (content,) = (await client.read_resource(f"gemma://sessions/{session}")).contents
        assert isinstance(content, TextResourceContents)
        assert content.mime_type == "text/markdown"
        assert content.text.startswith(f"# Session {session}\n\n2 turns with scripted, started ")
        headings = [line for line in content.text.splitlines() if line.startswith("## ")]
        assert headings == ["## System", "## User", "## Gemma", "## User", "## Gemma"]
        assert '<file path="a.txt">\nfrom a file\n</file>\n\nLook.' in content.text


@pytest.mark.parametrize("name", ["s-none", "x" * 300])
async def test_a_transcript_of_no_session_is_an_error_of_the_request(connect: Connect, name: str) -> None:
    async with connect() as client:
        with pytest.raises(MCPError) as caught:
            await client.read_resource(f"gemma://sessions/{name}")
        assert caught.value.error.code == INVALID_PARAMS
        assert "There is no session" in caught.value.error.message
