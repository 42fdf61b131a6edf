import re
from io import BytesIO
from pathlib import Path

import anyio
import pytest
from mcp import Client
from PIL import Image
from scripted_engine import Connect, ScriptedEngines, error_of, finished, said, texts

from gemma_mcp.errors import QueueFullError
from gemma_mcp.wire import ChatCompletionRequest, ImagePart, TextPart


def turns(engines: ScriptedEngines, index: int = -1) -> list[tuple[str, object]]:
    request = engines.requests[index]
    assert isinstance(request, ChatCompletionRequest)
    return [(message.role, message.content) for message in request.messages]


async def say(client: Client, message: str, **arguments: object) -> tuple[str, str]:
    """The answer and the session."""
    result = await client.call_tool("chat", {"message": message, **arguments})
    assert not result.is_error, result.content
    answer, line = texts(result)
    match = re.search(r"session (s-\w+)", line)
    assert match
    assert result.meta is not None
    assert result.meta["gemma-mcp"]["session"] == match[1]
    return answer, match[1]


async def test_a_session_remembers_its_turns(connect: Connect, engines: ScriptedEngines) -> None:
    engines.play([said("Hello "), said("Ada."), finished()], [said("Ada."), finished()])
    async with connect() as client:
        first, session = await say(client, "I am Ada.", system="Be brief.", model="other")
        second, same = await say(client, "Who am I?", session=session)
    assert (first, second, same) == ("Hello Ada.", "Ada.", session)
    assert turns(engines) == [
        ("system", "Be brief."),
        ("user", "I am Ada."),
        ("assistant", "Hello Ada."),
        ("user", "Who am I?"),
    ]
    assert engines.requests[-1].model == "other"


async def test_sessions_are_apart(connect: Connect, engines: ScriptedEngines) -> None:
    async with connect() as client:
        _, one = await say(client, "one")
        _, two = await say(client, "two")
        assert one != two
        await say(client, "more", session=one)
    assert [content for _, content in turns(engines)] == ["one", "fine", "more"]


async def test_a_later_system_instruction_replaces_the_earlier_one(connect: Connect, engines: ScriptedEngines) -> None:
    async with connect() as client:
        _, session = await say(client, "a", system="old")
        await say(client, "b", session=session, system="new")
        await say(client, "c", session=session)
    assert turns(engines)[0] == ("system", "new")
    assert [role for role, _ in turns(engines)].count("system") == 1


async def test_files_and_images_stay_in_the_session(connect: Connect, engines: ScriptedEngines, project: Path) -> None:
    (project / "a.txt").write_text("text", encoding="utf-8")
    file = BytesIO()
    Image.new("RGB", (5000, 8)).save(file, "PNG")
    (project / "a.png").write_bytes(file.getvalue())
    async with connect() as client:
        result = await client.call_tool("chat", {"message": "Look.", "files": ["a.txt:1-9"], "images": ["a.png"]})
        line = texts(result)[1]
        assert "a.txt ends at line 1" in line
        assert "a.png scaled from 5000x8" in line
        session = line.partition("session ")[2].split()[0]
        await say(client, "Again?", session=session)
    (_, first), _, (_, last) = turns(engines)
    assert isinstance(first, tuple)
    assert isinstance(first[0], ImagePart)
    assert isinstance(first[1], TextPart)
    assert first[1].text == '<file path="a.txt" lines="1-1">\ntext\n</file>\n\nLook.'
    assert last == "Again?"


async def test_images_of_a_whole_session_are_bounded(connect: Connect, project: Path) -> None:
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    (project / "a.png").write_bytes(file.getvalue())
    async with connect(max_images=2) as client:
        _, session = await say(client, "x", images=["a.png", "a.png"])
        result = await client.call_tool("chat", {"message": "y", "session": session, "images": ["a.png"]})
        assert "holds 2 images already" in error_of(result)
        await say(client, "z", session=session)


async def test_a_session_nobody_knows_is_an_error(connect: Connect, engines: ScriptedEngines) -> None:
    async with connect() as client:
        result = await client.call_tool("chat", {"message": "x", "session": "s-none"})
    assert error_of(result) == "There is no session 's-none'. Leave `session` out to start a new one."
    assert not engines.requests


async def test_the_session_that_was_quiet_longest_is_forgotten(connect: Connect) -> None:
    async with connect(sessions={"max_sessions": 2}) as client:
        _, one = await say(client, "1")
        _, two = await say(client, "2")
        await say(client, "1 again", session=one)
        await say(client, "3")
        assert two in error_of(await client.call_tool("chat", {"message": "x", "session": two}))
        await say(client, "1 still", session=one)


async def test_a_failed_turn_leaves_the_session_as_it_was(connect: Connect, engines: ScriptedEngines) -> None:
    engines.play([said("one"), finished()], [said("half of "), QueueFullError(1)], [said("two"), finished()])
    async with connect() as client:
        _, session = await say(client, "a")
        error_of(await client.call_tool("chat", {"message": "lost", "session": session, "system": "lost"}))
        await say(client, "b", session=session)
    assert [content for _, content in turns(engines)] == ["a", "one", "b"]


async def test_a_first_turn_that_fails_makes_no_session(connect: Connect, engines: ScriptedEngines) -> None:
    engines.play([QueueFullError(1)])
    async with connect() as client:
        assert "session" not in error_of(await client.call_tool("chat", {"message": "a"}))


async def test_a_cancelled_turn_leaves_the_session_as_it_was(connect: Connect, engines: ScriptedEngines) -> None:
    never = anyio.Event()
    engines.play([said("one"), finished()], [said("half"), never], [said("two"), finished()])
    async with connect() as client:
        _, session = await say(client, "a")
        engines.entered, engines.left = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(say, client, f"lost in {session}")
            await engines.entered.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(5):
            await engines.left.wait()
        await say(client, "b", session=session)
    assert [content for _, content in turns(engines)] == ["a", "one", "b"]


async def test_turns_of_one_session_wait_for_each_other(connect: Connect, engines: ScriptedEngines) -> None:
    gate = anyio.Event()
    engines.play([said("one"), finished()], [said("two"), gate, finished()], [said("three"), finished()])
    async with connect() as client:
        _, session = await say(client, "a")
        engines.entered = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def turn(message: str) -> None:
                await say(client, message, session=session)

            tasks.start_soon(turn, "b")
            await engines.entered.wait()
            tasks.start_soon(turn, "c")
            await say(client, "another session is not held up")
            assert engines.running == 1
            gate.set()
    assert [content for _, content in turns(engines)] == ["a", "one", "b", "two", "c"]


async def test_a_turn_that_waits_too_long_for_another_says_so(connect: Connect, engines: ScriptedEngines) -> None:
    gate = anyio.Event()
    engines.play([said("one"), finished()], [said("two"), gate, finished()])
    async with connect() as client:
        _, session = await say(client, "a")
        engines.entered = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def turn() -> None:
                await say(client, "b", session=session)

            tasks.start_soon(turn)
            await engines.entered.wait()
            result = await client.call_tool("chat", {"message": "c", "session": session, "max_seconds": 0.01})
            assert "was not done within the 0.01 s" in error_of(result)
            gate.set()


@pytest.mark.parametrize("message", ["", "  "])
async def test_nothing_said_is_refused(connect: Connect, message: str) -> None:
    async with connect() as client:
        assert error_of(await client.call_tool("chat", {"message": message})) == "`message` is empty."
