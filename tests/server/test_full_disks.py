"""Disks that are full, or fill up while a model works: sessions stay as they were, and no half file is left."""

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree
from subprocess import run

import pytest
from raw_calls import ask, begun, refused, said
from server_pipes import SERVE, RawClient, home_in, serving
from session_stores import WIDE, sound
from session_stores import texts as contents
from small_disks import fill, need_small_disks, on_small_disk, seen_by

from gemma_mcp.server.sessions import SessionStore
from gemma_mcp.testing.engines import EngineHome


@pytest.fixture(autouse=True)
def small_disks(tmp_path_factory: pytest.TempPathFactory) -> None:
    need_small_disks(tmp_path_factory.getbasetemp())


@pytest.fixture
def home(tmp_path: Path) -> Iterator[EngineHome]:
    home = home_in(tmp_path / "home", GEMMA_MCP_SERVER_WRITE="overwrite")
    home.folder.mkdir()
    yield home
    home.end()


@contextmanager
def serving_on(
    disk: Path, size: int, home: EngineHome, project: Path, *command: str
) -> Generator[tuple[RawClient, Path]]:
    """A server with a small disk at `disk`, and that folder as the server sees it."""
    with serving(home.environ, project, *on_small_disk(disk, size, project, *(command or SERVE))) as server:
        server.start()
        try:
            yield server, seen_by(server.process.pid, disk)
        finally:
            for process in home.processes():  # whose state file nobody but they can see
                process.terminate()


def test_a_disk_that_fills_up_in_a_turn_costs_this_turn_and_nothing_else(
    home: EngineHome, project: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with serving_on(home.folder, 48_000_000, home, project) as (server, seen):
        session = begun(server, 1)
        ask(server, 2, "chat", message=f"!hold {gate} lost", session=session)
        server.wait_for_progress()
        ballast = fill(seen)
        gate.touch()
        assert "the disk is full. Free some" in refused(server, 2)
        ask(server, 3, "chat", message="refused before it is computed", session=session)
        ask(server, 4, "chat", message="a new one is, too")
        for number in (3, 4):
            assert "the disk is full. Free some" in refused(server, number)
        ask(server, 5, "generate_text", prompt="other tools go on")
        assert said(server, 5)[0] == "other tools go on"
        ballast.unlink()
        ask(server, 6, "chat", message="second", session=session)
        assert said(server, 6)[0] == "second"
        copytree(seen / "sessions", tmp_path / "copy")
        store = SessionStore(tmp_path / "copy", WIDE)
        assert contents(store.load(session)) == ["first", "first", "second", "second"]
        assert [summary.name for summary in store.summaries()] == [session]
        sound(store)


EVERY_ROOM = """
import sys
from pathlib import Path
from gemma_mcp.errors import SessionStoreError
from gemma_mcp.server.sessions import SessionStore
from session_stores import PNG, WIDE, say, sound
from small_disks import fill

store = SessionStore(Path(sys.argv[1]), WIDE)
session = say(store, store.new(), "first")
failed = kept = 0
for pages in range(200):
    ballast = fill(store.folder, pages * 4096)
    try:
        session = say(store, session, f"{pages} " * 3000, PNG, ids=2000)
        kept += 1
    except SessionStoreError as error:
        assert "the disk is full. Free some" in str(error), error
        failed += 1
    finally:
        ballast.unlink()
    sound(store)
    assert store.load(session.name) == session
    if kept == 5:
        break
print(failed, kept)
"""


def test_a_turn_is_kept_or_refused_whatever_room_there_is_on_the_disk(tmp_path: Path) -> None:
    folder = tmp_path / "sessions"
    folder.mkdir()
    command = on_small_disk(folder, 24_000_000, tmp_path, sys.executable, "-c", EVERY_ROOM, str(folder))
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = run(command, env=environ, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    failed, kept = map(int, done.stdout.split())
    assert failed > 8
    assert kept == 5


LINKLESS = """
import errno, os, sys
from gemma_mcp.server import stdio

def link(*paths, **options):
    raise PermissionError(errno.EPERM, "this file system has no links")

os.link = link
stdio.serve_stdio(os.environ)
"""


PAGE = 4096
"""Bytes; the disk gives them away by the page."""

TEXT = "x" * 100


@pytest.mark.parametrize(
    ("command", "pages", "written"),
    [
        (SERVE, 0, ()),
        (SERVE, 1, ("new.txt", "old.txt")),
        ([sys.executable, "-c", LINKLESS], 1, ("old.txt",)),  # a new file needs room for two, for a moment
    ],
    ids=["no room", "room", "room for one, and no links"],
)
def test_a_reply_that_does_not_fit_on_the_disk_leaves_no_half_file(
    home: EngineHome, project: Path, command: list[str], pages: int, written: tuple[str, ...]
) -> None:
    with serving_on(project, 1_000_000, home, project, *command) as (server, seen):
        for number, name in enumerate(("new.txt", "old.txt"), 1):
            (seen / "old.txt").write_text("old", encoding="utf-8")
            ballast = fill(seen, pages * PAGE)
            before = files_of(seen)
            again = {"overwrite": True} if name == "old.txt" else {}
            ask(server, number, "generate_text", prompt=f"!repeat {len(TEXT)} x", output=name, **again)
            reply, line = said(server, number)
            if name in written:
                assert reply.startswith(f"The reply was written to {name}")
                before[name] = len(TEXT)
            else:
                assert reply == TEXT
                assert f"so it stands here: {name}: no space left on device. Check the disk" in line
            assert files_of(seen) == before
            ballast.unlink()
            (seen / "new.txt").unlink(missing_ok=True)


def files_of(folder: Path) -> dict[str, int]:
    """The size of each file."""
    return {path.name: path.stat().st_size for path in folder.iterdir()}
