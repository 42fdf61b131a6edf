"""`gemma-mcp sessions`, as a user types it."""

import json
import subprocess
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from gemma_mcp.server.sessions import Limits, Session, SessionStore
from gemma_mcp.wire import ChatMessage

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def store(environment: dict[str, str]) -> SessionStore:
    return SessionStore(Path(environment["GEMMA_MCP_HOME"]) / "sessions", Limits(0, 1_000_000_000, 1000))


def say(store: SessionStore, text: str, session: Session | None = None, model: str = "gemma-3-4b") -> Session:
    messages = (ChatMessage(role="user", content=text), ChatMessage(role="assistant", content="fine"))
    return store.append(session or store.new(), messages, system=None, model=None, answered_by=model)


def width(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


def test_without_sessions_it_says_where_they_come_from(gemma_mcp: Run) -> None:
    done = gemma_mcp("sessions", "list")
    assert (done.returncode, done.stdout) == (0, "There are no sessions yet: the tool `chat` makes them.\n")
    assert json.loads(gemma_mcp("sessions", "list", "--json").stdout) == []


def test_the_list_fits_a_terminal_of_80_columns(gemma_mcp: Run, store: SessionStore) -> None:
    long = say(store, "What is the capital of France? " * 20, model="a-model-with-a-very-long-name-q4_0")
    wide = say(store, "東京はどこですか。" * 20)
    wide = say(store, "and?", wide)
    lines = gemma_mcp("sessions", "list", COLUMNS="80").stdout.splitlines()
    assert lines[0].split() == ["SESSION", "TURNS", "MODEL", "USED", "SIZE", "BEGINS", "WITH"]
    assert [line.split()[:2] for line in lines[1:]] == [[wide.name, "2"], [long.name, "1"]]
    assert all(70 <= width(line) <= 80 for line in lines[1:])
    assert "now" in lines[1]
    assert lines[2].endswith("…")


def test_the_list_can_be_had_as_json(gemma_mcp: Run, store: SessionStore) -> None:
    session = say(store, "What is it?")
    (listed,) = json.loads(gemma_mcp("sessions", "list", "--json").stdout)
    assert abs(listed.pop("created") - time.time()) < 3600
    assert abs(listed.pop("used") - time.time()) < 3600
    assert listed.pop("size_bytes") > 10
    assert listed == {"name": session.name, "turns": 1, "answered_by": "gemma-3-4b", "opening": "What is it?"}


def test_what_was_said_cannot_steer_the_terminal(gemma_mcp: Run, store: SessionStore) -> None:
    session = say(store, "red \x1b[31m and \x9b2J back\u202e\r")
    for command in (("list",), ("show", session.name)):
        printed = gemma_mcp("sessions", *command).stdout
        assert "red " in printed
        assert not set("\x1b\x9b\u202e\r") & set(printed)


def test_a_session_can_be_shown(gemma_mcp: Run, store: SessionStore) -> None:
    session = say(store, "Is it good?")
    printed = gemma_mcp("sessions", "show", session.name).stdout
    assert printed.startswith(f"# Session {session.name}\n\n1 turn with gemma-3-4b, started ")
    assert printed.endswith("## User\n\nIs it good?\n\n## Gemma\n\nfine\n")


def test_a_session_nobody_knows_is_an_error_that_says_where_to_look(gemma_mcp: Run, store: SessionStore) -> None:
    say(store, "a")
    for command in ("show", "delete"):
        done = gemma_mcp("sessions", command, "s-none")
        assert done.returncode == 1
        hint = "`gemma-mcp sessions list` names those that there are."
        assert done.stderr == f"gemma-mcp: There is no session 's-none'. {hint}\n"


def test_sessions_can_be_deleted_by_name_or_all(gemma_mcp: Run, store: SessionStore) -> None:
    one, two, three = (say(store, text) for text in "abc")
    done = gemma_mcp("sessions", "delete", one.name, two.name)
    assert (done.returncode, done.stdout) == (0, "2 sessions deleted.\n")
    assert [left.name for left in store.summaries()] == [three.name]
    assert gemma_mcp("sessions", "delete", "--all").stdout == "1 session deleted.\n"
    assert store.summaries() == []


@pytest.mark.parametrize("arguments", [(), ("--all", "s-1")])
def test_it_must_be_said_what_to_delete(gemma_mcp: Run, store: SessionStore, arguments: tuple[str, ...]) -> None:
    say(store, "a")
    done = gemma_mcp("sessions", "delete", *arguments)
    assert done.returncode == 2
    assert "Name the sessions to delete, or give --all." in done.stderr
    assert len(store.summaries()) == 1


def test_pruning_applies_the_settings(gemma_mcp: Run, store: SessionStore) -> None:
    *_, last = [say(store, text) for text in "abc"]
    assert gemma_mcp("sessions", "prune").stdout == "0 sessions deleted.\n"
    assert gemma_mcp("sessions", "prune", "--set", "sessions.max_sessions=1").stdout == "2 sessions deleted.\n"
    assert [left.name for left in store.summaries()] == [last.name]


def test_a_damaged_store_is_moved_aside_only_when_the_user_says_so(gemma_mcp: Run, store: SessionStore) -> None:
    say(store, "a")
    assert gemma_mcp("sessions", "repair").stdout == "The store is sound; nothing was changed.\n"
    file = store.folder / "sessions.db"
    file.write_bytes(b"scribble" * 1000)
    done = gemma_mcp("sessions", "list")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "it is damaged. `gemma-mcp sessions repair`" in done.stderr
    assert file.read_bytes() == b"scribble" * 1000
    done = gemma_mcp("sessions", "repair")
    assert done.stdout == f"The damaged store is now {file}.damaged-1\n0 sessions taken over into a new one.\n"
    assert gemma_mcp("sessions", "list").returncode == 0


def test_the_sessions_of_a_client_over_http_are_shown_and_deleted_apart_from_the_users_own(
    gemma_mcp: Run, store: SessionStore, environment: dict[str, str]
) -> None:
    clients = {"GEMMA_MCP_HTTP_CLIENTS": '["laptop", "guest"]'}
    folder = Path(environment["GEMMA_MCP_HOME"]) / "sessions" / "clients" / "laptop"
    own = say(store, "my own").name
    theirs = say(SessionStore(folder, Limits(0, 1_000_000_000, 1000)), "from the laptop").name

    def names(*words: str) -> list[str]:
        return [one["name"] for one in json.loads(gemma_mcp("sessions", *words, "list", "--json", **clients).stdout)]

    assert (names(), names("--client", "laptop"), names("--client", "guest")) == ([own], [theirs], [])
    assert "from the laptop" in gemma_mcp("sessions", "--client", "laptop", "show", theirs, **clients).stdout
    assert gemma_mcp("sessions", "--client", "guest", "show", theirs, **clients).returncode == 1
    deleted = gemma_mcp("sessions", "--client", "laptop", "delete", "--all", **clients)
    assert deleted.stdout == "1 session deleted.\n"
    assert (names(), names("--client", "laptop")) == ([own], [])


def test_an_unknown_client_is_refused_with_the_known_ones(gemma_mcp: Run, store: SessionStore) -> None:
    clients = {"GEMMA_MCP_HTTP_CLIENTS": '["laptop", "guest"]'}
    for command in ("list", "prune", "repair"):
        done = gemma_mcp("sessions", "--client", "../laptop", command, **clients)
        assert done.returncode == 1
        assert done.stderr == "gemma-mcp: There is no client '../laptop'. Clients of http.clients: laptop, guest.\n"
    own = say(store, "my own").name
    assert own in gemma_mcp("sessions", "--client", "default", "list").stdout  # the one that there is without any
