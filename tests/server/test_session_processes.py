"""Sessions among processes: two servers on one store, engines and servers that end, turns that are killed half-way."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from scripted_engine import texts
from server_pipes import SECONDS, client_of, home_in, serving
from session_stores import WIDE, say, sound
from session_stores import texts as contents

from gemma_mcp.server.sessions import Session, SessionStore
from gemma_mcp.testing.engines import EngineHome


@pytest.fixture
def home(tmp_path: Path) -> Iterator[EngineHome]:
    home = home_in(tmp_path / "home")
    yield home
    assert home.end() == []


def test_a_server_that_starts_does_without_the_database() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"  # coverage brings the database along
        "import gemma_mcp.server.app, gemma_mcp.client.pool; print('sqlite3' in set(sys.modules) - before)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"False"


def store_of(home: EngineHome) -> SessionStore:
    return SessionStore(home.places.sessions, WIDE)


async def turn(client: Client, message: str, **arguments: Any) -> dict[str, Any]:
    """A turn's details."""
    result = await client.call_tool("chat", {"message": message, **arguments}, read_timeout_seconds=SECONDS)
    assert not result.is_error, texts(result)
    assert result.meta is not None
    return result.meta["gemma-mcp"]


def computed(details: dict[str, Any]) -> int:
    """Tokens that stand in the KV cache after a turn: the last one of a reply that was cut is not computed."""
    usage = details["usage"]
    return usage["prompt_tokens"] + usage["completion_tokens"] - (details["finish_reason"] != "stop")


def cached(details: dict[str, Any]) -> int:
    return details["usage"]["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.parametrize("model", ["echo", "starter"])
async def test_a_session_goes_on_in_another_server_and_computes_nothing_twice(
    home: EngineHome, project: Path, model: str
) -> None:
    async with client_of(home.environ, project) as client:
        first = await turn(client, "hello, who are you?", model=model)
    async with client_of(home.environ, project) as client:
        second = await turn(client, "and what is two plus two?", session=first["session"])
        third = await turn(client, "thank you", session=first["session"])
    assert second["model"]["model"] == model
    assert (cached(second), cached(third)) == (computed(first), computed(second))
    assert cached(second) > 10


async def test_a_session_goes_on_after_its_engine_has_ended(home: EngineHome, project: Path) -> None:
    async with client_of(home.environ, project) as client, home.pool() as pool:
        session = (await turn(client, "one"))["session"]
        assert await pool.stop()
        assert cached(await turn(client, "two", session=session)) == 0
    assert contents(store_of(home).load(session)) == ["one", "one", "two", "two"]


async def test_turns_of_two_servers_in_one_session_follow_one_another(home: EngineHome, project: Path) -> None:
    count = 6
    async with client_of(home.environ, project) as one, client_of(home.environ, project) as other:
        session = (await turn(one, "start"))["session"]
        async with anyio.create_task_group() as tasks:
            for number in range(count):
                for name, client in (("one", one), ("other", other)):
                    tasks.start_soon(lambda c, text: turn(c, text, session=session), client, f"{name} {number}")
    store = store_of(home)
    said = contents(store.load(session))
    assert said[0::2] == said[1::2]  # each answer follows its question
    assert sorted(map(str, said[2::2])) == sorted(f"{name} {n}" for name in ("one", "other") for n in range(count))
    assert store.load(session).turns == 2 * count + 1
    sound(store)


async def test_a_server_that_is_killed_in_its_turn_holds_up_nobody(home: EngineHome, project: Path) -> None:
    async with client_of(home.environ, project) as client:
        session = (await turn(client, "start"))["session"]
        with serving(home.environ, project) as victim:
            victim.start()
            call = victim.call(1, message=f"!hold {project / 'never'} lost", session=session)
            call["params"]["name"] = "chat"
            victim.send(call)
            victim.wait_for_progress()
            late = await client.call_tool("chat", {"message": "x", "session": session, "max_seconds": 0.3})
            assert late.is_error
            victim.process.kill()
            victim.process.wait()
            await turn(client, "next", session=session)
    assert contents(store_of(home).load(session)) == ["start", "start", "next", "next"]


KILLED = """
import os, resource, signal, sqlite3, sys
from pathlib import Path
from gemma_mcp.server.sessions import SessionStore
from session_stores import PNG, WIDE, say

store, name, by, left = SessionStore(Path(sys.argv[1]), WIDE), sys.argv[2], sys.argv[3], int(sys.argv[4])
session = store.load(name)
connect = sqlite3.connect

def count(statement):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

def counting(*arguments, **options):
    db = connect(*arguments, **options)
    db.set_trace_callback(count)
    return db

if by == "statement":
    sqlite3.connect = counting
else:  # the first write beyond so many pages of a file kills the process
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left * 4096, left * 4096))
say(store, session, "new " * 3000, PNG, ids=2000)
print("done")
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("by", ["statement", "page"])
def test_a_process_that_is_killed_between_any_two_writes_loses_and_doubles_no_turn(tmp_path: Path, by: str) -> None:
    store = SessionStore(tmp_path / "sessions", WIDE)
    session = say(store, store.new(), "first")
    outcomes: list[int] = []
    for left in range(100):
        done = killed(store, session, by, left)
        now = store.load(session.name)
        assert now.messages[: len(session.messages)] == session.messages
        outcomes.append(now.turns - session.turns)
        sound(store)
        if done.stdout == "done\n":
            break
        assert done.returncode < 0, done.stderr
        session = now  # longer, when the kill came after the turn was kept
    assert set(outcomes) == {0, 1}
    assert outcomes[-1] == 1
    assert outcomes.count(0) > 8
    say(store, store.load(session.name), "goes on")


def killed(store: SessionStore, session: Session, by: str, left: int) -> subprocess.CompletedProcess[str]:
    """One more turn, taken by a process that ends with its write number `left`."""
    return subprocess.run(
        [sys.executable, "-c", KILLED, str(store.folder), session.name, by, str(left)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
