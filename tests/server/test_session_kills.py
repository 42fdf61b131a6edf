"""Processes killed in the middle of a session's turn: afterwards the session holds exactly what was answered."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import psutil
import pytest
from raw_calls import ask, begun, error_of, said
from server_pipes import SERVE, RawClient, home_in, serving
from session_stores import WIDE, sound
from session_stores import texts as contents

from gemma_mcp.server.sessions import SessionStore
from gemma_mcp.testing.engines import EngineHome

SLOW = "!slow 0.05 " + "x" * 40
MOMENTS = ("queueing", "prefilling", "decoding")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[EngineHome]:
    home = home_in(tmp_path / "home", GEMMA_MCP_LLAMACPP_SLOTS="1")
    yield home
    assert home.end() == []


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Models wait until this file is there."""
    return tmp_path / "gate"


def wait_for_load(home: EngineHome, running: int, waiting: int) -> None:
    """Until the model computes so many requests, and so many wait for it."""

    async def look() -> None:
        async with home.pool() as pool:
            while (status := await pool.running()) is None or [
                (model.running, model.waiting) for model in status.models
            ] != [(running, waiting)]:
                await anyio.sleep(0.02)

    async def wait() -> None:
        with anyio.fail_after(30):
            await look()

    anyio.run(wait)


def bring_to(moment: str, server: RawClient, home: EngineHome, session: str, gate: Path) -> None:
    """Call number 2 is a turn of the session at that moment."""
    if moment == "queueing":
        ask(server, 9, "generate_text", prompt=f"!hold {gate} x")
        wait_for_load(home, 1, 0)
    message = {"queueing": "kept", "prefilling": f"!hold {gate} kept", "decoding": SLOW}[moment]
    ask(server, 2, "chat", message=message, session=session)
    if moment == "decoding":
        server.wait_for_words()
    else:
        wait_for_load(home, 1, 1 if moment == "queueing" else 0)


def replies(home: EngineHome, session: str) -> list[object]:
    """What the session was answered with, once its file was found to be whole."""
    store = SessionStore(home.places.sessions, WIDE)
    sound(store)
    said = contents(store.load(session))
    assert store.load(session).turns == len(said) // 2
    return said[1::2]


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_engine_that_is_killed_costs_no_more_than_the_turn_that_it_was_writing(
    home: EngineHome, project: Path, gate: Path, moment: str
) -> None:
    with serving(home.environ, project) as server:
        server.start()
        session = begun(server, 1)
        bring_to(moment, server, home, session, gate)
        psutil.Process(home.state().pid).kill()
        gate.touch()
        answer = server.answer(2)
        if moment == "decoding":
            assert "again" in error_of(answer)
        else:
            assert answer["result"]["content"][0]["text"] == "kept"
        ask(server, 3, "chat", message="next", session=session)
        assert said(server, 3)[0] == "next"
    assert replies(home, session) == ["first", *(["kept"] if moment != "decoding" else []), "next"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker_that_is_killed_costs_a_turn_nothing(home: EngineHome, project: Path, gate: Path, moment: str) -> None:
    with serving(home.environ, project) as server:
        server.start()
        session = begun(server, 1)
        bring_to(moment, server, home, session, gate)
        for worker in psutil.Process(home.state().pid).children():
            worker.kill()
        gate.touch()
        answered = said(server, 2)[0]
        assert answered == ("x" * 40 if moment == "decoding" else "kept")
    assert replies(home, session) == ["first", answered]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_server_that_is_killed_takes_its_turn_along_and_nothing_else(
    home: EngineHome, project: Path, gate: Path, moment: str
) -> None:
    with serving(home.environ, project) as server:
        server.start()
        session = begun(server, 1)
        bring_to(moment, server, home, session, gate)
        server.process.kill()
        wait_for_load(home, 0, 0)  # the engine notices
    with serving(home.environ, project) as server:
        server.start()
        ask(server, 1, "chat", message="next", session=session)
        assert said(server, 1)[0] == "next"
    assert replies(home, session) == ["first", "next"]


KILLED = """
import os, signal
from gemma_mcp.server import stdio
from gemma_mcp.server.sessions import SessionStore
append, when = SessionStore.append, {when!r}

def end(*arguments, **options):
    if arguments[1].turns == 1 and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    kept = append(*arguments, **options)
    if arguments[1].turns == 1 and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return kept

SessionStore.append = end
stdio.serve_stdio(os.environ)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_server_that_is_killed_beside_the_keeping_of_a_turn_keeps_it_once_or_not_at_all(
    home: EngineHome, project: Path, when: str
) -> None:
    with serving(home.environ, project, sys.executable, "-c", KILLED.format(when=when)) as server:
        server.start()
        session = begun(server, 1)
        ask(server, 2, "chat", message="second", session=session)
        assert server.process.wait(30) == -signal.SIGKILL
    assert replies(home, session) == ["first", *(["second"] if when == "after" else [])]


def test_a_turn_is_on_the_disk_when_its_answer_is_heard(home: EngineHome, project: Path) -> None:
    with serving(home.environ, project, *SERVE) as server:
        server.start()
        session = begun(server, 1)
        ask(server, 2, "chat", message="second", session=session)
        server.answer(2)
        server.process.kill()
    assert replies(home, session) == ["first", "second"]
