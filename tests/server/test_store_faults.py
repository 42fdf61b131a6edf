"""A store of sessions that is damaged, newer or locked, as a client of the real server meets it: before a turn, or
between the reading of a session and the keeping of its turn. It costs that turn only, and `chat` only.
"""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from raw_calls import ask, begun, error_of, said
from server_pipes import home_in, serving
from session_stores import WIDE, database, sound
from session_stores import texts as contents

from gemma_mcp.server.sessions import SessionStore
from gemma_mcp.testing.engines import EngineHome


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineHome]:
    home = home_in(tmp_path_factory.mktemp("home"))
    yield home
    home.end()


Mend = Callable[[], object]


@dataclass(frozen=True)
class Fault:
    """What happens to the file, which returns how it is put right again, and what is said about it."""

    name: str
    happen: Callable[[Path], Mend]
    words: str
    hint: str


def damage(file: Path) -> Mend:
    whole = file.read_bytes()
    file.write_bytes(b"no database" * 2000)
    return lambda: file.write_bytes(whole)


def grow_newer(file: Path) -> Mend:
    """As a later gemma-mcp does it."""

    def call_it(version: int) -> None:
        db = sqlite3.connect(file)
        db.execute(f"PRAGMA user_version = {version}")
        db.close()

    db = sqlite3.connect(file)
    (known,) = db.execute("PRAGMA user_version").fetchone()
    db.close()
    call_it(known + 1)
    return lambda: call_it(known)


def lock(file: Path) -> Mend:
    """As a program that writes and does not end."""
    db = sqlite3.connect(file, isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    return db.close


FAULTS = (
    Fault("damaged", damage, "it is damaged", "gemma-mcp sessions repair"),
    Fault("newer", grow_newer, "a newer gemma-mcp wrote it", "Update gemma-mcp"),
    Fault("locked", lock, "another program kept it locked", "Try again"),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_store_of_no_use_is_one_clear_error_and_other_tools_go_on(
    home: EngineHome, project: Path, tmp_path: Path, fault: Fault
) -> None:
    store, gate = SessionStore(home.places.sessions, WIDE), tmp_path / "gate"
    with serving(home.environ, project) as server:
        server.start()
        session = begun(server, 1)
        ask(server, 2, "chat", message=f"!hold {gate} lost", session=session)
        server.wait_for_progress()
        mend = fault.happen(database(store))
        gate.touch()
        ask(server, 3, "chat", message="a new one")
        ask(server, 4, "chat", message="a fork", session=session, fork=True)
        ask(server, 5, "generate_text", prompt="another tool")
        answers = {answer["id"]: answer for answer in server.answers({2, 3, 4, 5})}
        assert answers.pop(5)["result"]["content"][0]["text"] == "another tool"
        for answer in answers.values():
            text = error_of(answer)
            assert fault.words in text
            assert fault.hint in text
        mend()
        ask(server, 6, "chat", message="second", session=session)
        assert said(server, 6)[0] == "second"
    assert contents(store.load(session)) == ["first", "first", "second", "second"]
    sound(store)
