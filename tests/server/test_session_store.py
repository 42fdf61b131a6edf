"""The store of sessions: what it keeps, shares, refuses and deletes."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from session_stores import PNG, WIDE, answer, database, rows, say, sound, texts, user

from gemma_mcp.errors import RequestError, SessionChangedError, UnknownSessionError
from gemma_mcp.server.sessions import Session, SessionStore, retention


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "data" / "sessions", WIDE)


def test_a_session_comes_back_as_it_was(store: SessionStore) -> None:
    session = store.new()
    said = (user("Grüße 世界 🙂\0\n", PNG, PNG), answer("", 0, 1, 262143, 2**31 - 1))
    one = store.append(session, said, system="Be brief.", model="gemma", answered_by="gemma-4b")
    two = say(store, one, "and?")
    assert (one.turns, two.turns, two.messages[:2]) == (1, 2, said)
    again = SessionStore(store.folder, WIDE).load(session.name)
    assert again == two
    assert (again.system, again.model) == ("Be brief.", "gemma")


@pytest.mark.parametrize(
    "url", ["data:image/png;base64,AAA", "data:image/png;base64,QUJD\n", "data:,x", "no URI at all"]
)
def test_image_uris_of_any_kind_come_back_as_they_were(store: SessionStore, url: str) -> None:
    session = say(store, store.new(), "x", url)
    assert store.load(session.name) == session


def test_an_image_is_stored_once_and_in_bytes(store: SessionStore) -> None:
    session = say(store, store.new(), "x", PNG, PNG)
    say(store, store.new(), "y", PNG)
    say(store, session, "z", PNG)
    assert rows(store, "image") == 1
    assert b"PNG\r\n" in database(store).read_bytes()


def test_a_longer_conversation_adds_rows_and_changes_none(store: SessionStore) -> None:
    session = say(store, store.new(), "a")
    assert rows(store, "message") == 2
    say(store, session, "b")
    assert rows(store, "message") == 4


def test_a_fork_shares_its_history_and_goes_its_own_way(store: SessionStore) -> None:
    origin = say(store, say(store, store.new(), "a"), "b")
    fork = store.fork(origin.name)
    assert fork.name != origin.name
    assert [one.name for one in store.summaries()] == [origin.name]
    fork = say(store, fork, "c")
    assert rows(store, "message") == 6
    assert texts(store.load(fork.name)) == ["a", "fine", "b", "fine", "c", "fine"]
    assert store.load(origin.name) == origin
    assert store.load(fork.name).turns == 3


def test_deleting_an_origin_leaves_its_forks(store: SessionStore) -> None:
    origin = say(store, say(store, store.new(), "a", PNG), "only here", PNG.replace("iVBO", "jVBO"))
    early = say(store, store.new(), "a", PNG)
    fork = say(store, early.fork(), "c")
    assert store.delete([origin.name]) == [origin.name]
    sound(store)
    assert store.load(fork.name) == fork
    assert rows(store, "image") == 1
    assert store.delete([fork.name, early.name, "s-none"]) == [fork.name, early.name]
    assert [rows(store, table) for table in ("session", "message", "image", "message_image")] == [0, 0, 0, 0]


def test_what_was_deleted_is_not_in_the_file_any_more(store: SessionStore) -> None:
    say(store, store.new(), "stays")
    session = say(store, store.new(), "a secret word " * 50)
    size = database(store).stat().st_size
    for number in range(50):
        session = say(store, session, f"a secret word {number} " * 100)
    store.delete([session.name])
    contents = b"".join(path.read_bytes() for path in store.folder.glob("sessions.db*"))
    assert b"secret" not in contents
    assert b"stays" in contents
    assert database(store).stat().st_size <= size


def test_of_two_turns_from_one_place_the_second_is_refused(store: SessionStore) -> None:
    session = say(store, store.new(), "a")
    first = say(store, session, "b")
    with pytest.raises(SessionChangedError, match="went on elsewhere"):
        say(store, session, "c")
    with pytest.raises(SessionChangedError):  # the very same turn is not there twice
        say(store, session, "b")
    assert store.load(session.name) == first
    sound(store)


def test_a_turn_of_a_session_that_was_deleted_meanwhile_is_refused(store: SessionStore) -> None:
    session = say(store, store.new(), "a")
    fork = session.fork()
    store.delete([session.name])
    for gone in (session, fork):
        with pytest.raises(SessionChangedError, match="was deleted"):
            say(store, gone, "b")
    assert store.summaries() == []
    sound(store)


@pytest.mark.parametrize("name", ["s-none", "", "'; DROP TABLE session; --", "../../x", "%", "s" * 300])
def test_a_session_nobody_knows_is_refused(store: SessionStore, name: str) -> None:
    say(store, store.new(), "a")
    for ask in (store.load, store.fork, store.summary):
        if name:
            with pytest.raises(UnknownSessionError):
                ask(name)
    assert store.delete([name]) == []
    assert len(store.summaries()) == 1


def test_text_that_is_no_unicode_is_refused(store: SessionStore) -> None:
    session = say(store, store.new(), "a")
    for use in (lambda: store.load("\ud800"), lambda: store.delete(["\ud800"]), lambda: say(store, session, "\ud800")):
        with pytest.raises(RequestError, match="not valid Unicode"):
            use()
    assert store.load(session.name) == session


def test_the_list_names_the_last_used_first(store: SessionStore) -> None:
    one = say(store, store.new(), '<file path="a">\ncode\n</file>\n\nWhat  is\nthis?')
    two = say(store, store.new(), "x" * 5000)
    say(store, one, "more")
    listed = store.summaries()
    assert [one.name for one in listed] == [one.name, two.name]
    assert (listed[0].opening, listed[0].turns, listed[0].answered_by) == ("What is this?", 2, "echo")
    assert listed[1].opening == "x" * 200
    assert listed[1].size_bytes > 5000
    assert [found.name for found in store.summaries(two.name[:5])] == [two.name]
    assert store.summaries("_") == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has access lists")
def test_the_store_is_its_user_s_alone(store: SessionStore) -> None:
    say(store, store.new(), "a")
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert database(store).stat().st_mode & 0o777 == 0o600
    database(store).chmod(0o644)
    store.summaries()
    assert database(store).stat().st_mode & 0o777 == 0o600


# --- limits -------------------------------------------------------------------------------------------------------


class Clock:
    """The machine's clock, set by hand."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retention, "time", clock)
    return clock


DAY = 86400.0


def limited(store: SessionStore, **limits: Any) -> SessionStore:
    return SessionStore(store.folder, replace(WIDE, **limits))


def names(store: SessionStore) -> list[str]:
    return [one.name for one in store.summaries()]


def test_beyond_their_number_the_session_that_was_quiet_longest_goes(store: SessionStore) -> None:
    store = limited(store, max_sessions=2)
    one, two = (say(store, store.new(), text) for text in "ab")
    one = say(store, one, "again")
    three = say(store, store.new(), "c")
    assert names(store) == [three.name, one.name]
    sound(store)
    with pytest.raises(UnknownSessionError):
        store.load(two.name)


def test_beyond_their_size_the_session_that_was_quiet_longest_goes(store: SessionStore) -> None:
    store = limited(store, max_bytes=1_000_000)
    many = [say(store, store.new(), f"{number}" * 150_000) for number in range(10, 20)]
    kept = names(store)
    assert kept == [one.name for one in reversed(many)][: len(kept)]
    assert 2 <= len(kept) <= 4
    assert database(store).stat().st_size < 1_400_000
    sound(store)


def test_the_session_that_just_went_on_is_never_deleted(store: SessionStore) -> None:
    store = limited(store, max_bytes=1, max_sessions=1, keep_seconds=1)
    session = say(store, say(store, store.new(), "x" * 100_000), "y")
    assert names(store) == [session.name]


def test_a_session_goes_when_it_was_quiet_too_long(store: SessionStore, clock: Clock) -> None:
    store = limited(store, keep_seconds=10 * DAY)
    old, kept = (say(store, store.new(), text) for text in "ab")
    for _ in range(4):
        clock.now += 3 * DAY
        kept = say(store, kept, "more")
    assert names(store) == [kept.name]
    assert old.name != kept.name
    clock.now += 6 * DAY
    assert store.prune() == []
    clock.now += 6 * DAY
    assert store.prune() == [kept.name]


def test_a_clock_that_jumps_deletes_nothing(store: SessionStore, clock: Clock) -> None:
    store = limited(store, keep_seconds=10 * DAY)
    session = say(store, store.new(), "a")
    clock.now += 50 * 365 * DAY
    other = say(store, store.new(), "b")
    clock.now -= 80 * 365 * DAY
    assert store.prune() == []
    session = say(store, session, "c")
    assert names(store) == [session.name, other.name]


def test_a_limit_of_zero_days_keeps_for_ever(store: SessionStore, clock: Clock) -> None:
    session = say(store, store.new(), "a")
    for _ in range(60):
        clock.now += 7 * DAY
        assert store.prune() == []
    assert names(store) == [session.name]


def test_a_session_can_be_forked_in_memory_again_and_again(store: SessionStore) -> None:
    origin = say(store, store.new(), "a")
    forks = [say(store, origin.fork(), text) for text in "bcd"]
    assert len({fork.name for fork in forks}) == 3
    assert all(texts(store.load(fork.name))[:2] == ["a", "fine"] for fork in forks)
    assert isinstance(origin, Session)
