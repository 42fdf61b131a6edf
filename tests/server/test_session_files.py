"""The file of the session store: older and newer versions, damage, locks, full disks, what a user may do about them."""

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from session_stores import PNG, WIDE, answer, database, rows, say, sound, texts, user

from gemma_mcp.errors import SessionStoreError
from gemma_mcp.server.sessions import SessionStore
from gemma_mcp.server.sessions import database as files
from gemma_mcp.server.sessions.database import MIGRATIONS, opened
from gemma_mcp.server.sessions.repair import repair

VERSION_1 = """
    CREATE TABLE message (id TEXT PRIMARY KEY, parent TEXT REFERENCES message (id), role TEXT NOT NULL,
        content TEXT NOT NULL, ids BLOB, vocabulary TEXT, bytes INTEGER NOT NULL, total_bytes INTEGER NOT NULL);
    CREATE INDEX message_by_parent ON message (parent);
    CREATE TABLE image (digest TEXT PRIMARY KEY, head TEXT NOT NULL, data BLOB NOT NULL);
    CREATE TABLE message_image (message TEXT NOT NULL REFERENCES message (id) ON DELETE CASCADE,
        image TEXT NOT NULL REFERENCES image (digest), PRIMARY KEY (message, image)) WITHOUT ROWID;
    CREATE INDEX message_image_by_image ON message_image (image);
    CREATE TABLE session (name TEXT PRIMARY KEY, head TEXT NOT NULL REFERENCES message (id), system TEXT, model TEXT,
        answered_by TEXT NOT NULL, turns INTEGER NOT NULL, opening TEXT NOT NULL, created REAL NOT NULL,
        used REAL NOT NULL, quiet_since REAL NOT NULL, place INTEGER NOT NULL);
    CREATE INDEX session_by_head ON session (head);
    CREATE TABLE clock (elapsed REAL NOT NULL, wall REAL NOT NULL, place INTEGER NOT NULL);
    INSERT INTO clock VALUES (12.5, 1700000000, 1);
    INSERT INTO image VALUES ('d1', 'data:image/png;base64,', x'0102');
    INSERT INTO message VALUES ('m1', NULL, 'user',
        '[{"image": "d1", "detail": "low"}, {"text": "What is it?"}]', NULL, NULL, 60, 60);
    INSERT INTO message_image VALUES ('m1', 'd1');
    INSERT INTO message VALUES ('m2', 'm1', 'assistant', '"A dot."', x'07000000ffff0300', 'v', 16, 76);
    INSERT INTO session VALUES ('s-old', 'm2', 'Be brief.', 'gemma', 'gemma-4b', 1, 'What is it?', 1700000000,
        1700000000, 12.5, 1);
    PRAGMA user_version = 1;
"""
"""What a store of version 1 looks like, for as long as there are such stores. It is not to be changed."""


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "sessions", WIDE)


def written(store: SessionStore, script: str) -> None:
    """A file that something else has made."""
    store.folder.mkdir(exist_ok=True)
    db = sqlite3.connect(database(store))
    db.executescript(script)
    db.close()


def reason(store: SessionStore) -> str:
    """Why the store cannot be used: every use says the same."""
    reasons: set[str] = set()
    for use in (store.summaries, store.new, store.prune, lambda: store.load("s-1"), lambda: store.delete(["s-1"])):
        with pytest.raises(SessionStoreError) as caught:
            use()
        assert caught.value.hint
        reasons.add(str(caught.value))
    (text,) = reasons
    assert str(store.folder) in text
    return text


# --- versions -----------------------------------------------------------------------------------------------------


def test_a_store_of_version_1_is_read_and_goes_on(store: SessionStore) -> None:
    written(store, VERSION_1)
    session = store.load("s-old")
    assert session.messages == (user("What is it?", "data:image/png;base64,AQI="), answer("A dot.", 7, 0x3FFFF))
    assert (session.system, session.model, session.turns) == ("Be brief.", "gemma", 1)
    say(store, session, "Sure?")
    assert store.load("s-old").turns == 2
    sound(store)


def test_an_older_store_is_brought_up_to_date_with_all_that_it_holds(store: SessionStore) -> None:
    session = say(store, store.new(), "a")
    newer = (*MIGRATIONS, ("ALTER TABLE session ADD COLUMN title TEXT", "UPDATE session SET title = upper(opening)"))
    for _ in range(2):
        with opened(store.folder, newer) as db:
            assert db.execute("SELECT name, title FROM session").fetchall() == [(session.name, "A")]
            assert db.execute("PRAGMA user_version").fetchone() == (len(newer),)


def test_a_step_that_fails_leaves_an_older_store_as_it_was(store: SessionStore) -> None:
    session = say(store, store.new(), "a")
    broken = (*MIGRATIONS, ("ALTER TABLE session ADD COLUMN title TEXT", "DELETE FROM nowhere"))
    with pytest.raises(SessionStoreError, match="no such table: nowhere"), opened(store.folder, broken):
        pass
    assert store.load(session.name) == session


def test_a_store_of_a_newer_version_is_left_alone(store: SessionStore) -> None:
    say(store, store.new(), "a")
    written(store, "PRAGMA user_version = 99")
    before = database(store).read_bytes()
    assert "a newer gemma-mcp wrote it (version 99" in reason(store)
    with pytest.raises(SessionStoreError, match="newer"):
        repair(store.folder)
    assert database(store).read_bytes() == before


def test_a_database_of_another_program_is_left_alone(store: SessionStore) -> None:
    written(store, "CREATE TABLE theirs (x)")
    assert "the database of another program" in reason(store)
    assert rows(store, "theirs") == 0


# --- files that cannot be used ------------------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_left_alone_and_the_way_out_is_named(store: SessionStore) -> None:
    store.folder.mkdir()
    database(store).write_bytes(b"not a database, " * 100)
    text = reason(store)
    assert "it is damaged" in text
    assert "gemma-mcp sessions repair" in text
    assert database(store).read_bytes() == b"not a database, " * 100


def test_a_locked_store_says_so(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    session = say(store, store.new(), "a")
    monkeypatch.setattr(files, "BUSY_SECONDS", 0.05)
    holder = sqlite3.connect(database(store), isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(SessionStoreError, match=r"kept it locked for 0\.05 s\. Try again"):
        store.new()
    with pytest.raises(SessionStoreError, match="kept it locked"):
        say(store, session, "b")
    assert store.load(session.name) == session  # who reads does not wait
    holder.execute("ROLLBACK")
    holder.close()
    say(store, session, "b")


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    text = reason(SessionStore(tmp_path / "file" / "sessions", WIDE))
    assert "GEMMA_MCP_HOME" in text


def test_a_store_whose_file_is_a_folder_says_so(store: SessionStore) -> None:
    database(store).mkdir(parents=True)
    assert "GEMMA_MCP_HOME" in reason(store)


def test_a_nearly_full_disk_is_found_out_before_a_turn_is_computed(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gemma_mcp.server.sessions import store as module

    session = say(store, store.new(), "a")
    monkeypatch.setattr(module, "LEAST_FREE_BYTES", 1 << 62)
    for use in (store.new, lambda: store.check(session.name), lambda: store.fork(session.name)):
        with pytest.raises(SessionStoreError, match=r"the disk is full\. Free some"):
            use()


FULL = """
import resource, sys
from pathlib import Path
from gemma_mcp.errors import SessionStoreError
from gemma_mcp.server.sessions import Limits, SessionStore
from session_stores import WIDE, say

store = SessionStore(Path(sys.argv[1]), WIDE)
session = say(store, store.new(), "a")
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
try:
    for number in range(1000):
        session = say(store, session, f"{number} " * 5000)
except SessionStoreError as error:
    print(session.name, session.turns, error)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limits")
def test_a_turn_that_cannot_be_written_leaves_the_session_as_it_was(store: SessionStore) -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(store.folder)], env=environ, capture_output=True, encoding="utf-8", check=True
    )
    name, turns, error = done.stdout.split(" ", 2)
    assert "cannot be used: reading or writing it failed" in error
    assert store.load(name).turns == int(turns) > 1
    sound(store)
    say(store, store.load(name), "and on")


# --- damage -------------------------------------------------------------------------------------------------------


def test_a_sound_store_is_not_touched_by_a_repair(store: SessionStore) -> None:
    assert repair(store.folder).aside is None
    session = say(store, store.new(), "a")
    assert repair(store.folder).aside is None
    assert store.load(session.name) == session


def test_a_repair_moves_the_file_aside_and_takes_over_what_can_be_read(store: SessionStore) -> None:
    whole = say(store, say(store, store.new(), "fine words", PNG), "more", ids=3)
    broken = say(store, store.new(), "words that will be overwritten")
    database_of(store).execute("DELETE FROM message WHERE parent IS NULL AND content LIKE '%overwritten%'")
    with pytest.raises(SessionStoreError, match="it is damaged"):
        store.load(broken.name)
    done = repair(store.folder)
    assert done.aside is not None
    assert done.aside.exists()
    assert (done.saved, done.lost) == ((whole.name,), (broken.name,))
    assert store.load(whole.name) == whole
    assert texts(say(store, whole, "on"))[-2:] == ["on", "fine"]
    sound(store)


def database_of(store: SessionStore) -> sqlite3.Connection:
    return sqlite3.connect(database(store), isolation_level=None)


def test_a_repair_of_what_is_no_database_keeps_it_and_starts_anew(store: SessionStore) -> None:
    store.folder.mkdir()
    for number in (1, 2):
        database(store).write_bytes(b"not a database, " * 100)
        done = repair(store.folder)
        aside = store.folder / f"sessions.db.damaged-{number}"
        assert done.aside == aside
        assert aside.read_bytes() == b"not a database, " * 100
        assert (done.saved, done.lost) == ((), ())
        assert store.summaries() == []
    say(store, store.new(), "a")


def test_a_schema_of_which_not_even_the_letters_can_be_read_can_be_repaired(store: SessionStore) -> None:
    say(store, store.new(), "a")
    data = database(store).read_bytes()
    database(store).write_bytes(data.replace(b"CREATE TABLE message (", b"CREATE TABLE message '\xff"))
    assert "it is damaged" in reason(store)
    assert repair(store.folder).aside is not None
    say(store, store.new(), "on")


@pytest.mark.parametrize("seed", range(6))
def test_damaged_bytes_anywhere_end_in_a_sentence_and_can_be_repaired(store: SessionStore, seed: int) -> None:
    session = store.new()
    for number in range(40):
        session = say(store, session, f"number {number} " * 200, ids=50)
    data = bytearray(database(store).read_bytes())
    chance = random.Random(seed)
    for _ in range(20):
        start = chance.randrange(len(data))
        data[start : start + 64] = chance.randbytes(len(data[start : start + 64]))
    database(store).write_bytes(data)
    with contextlib.suppress(SessionStoreError):  # nothing else may come of it
        store.summaries()
        store.load(session.name)
    repair(store.folder)
    sound(store)
    say(store, store.new(), "on")
