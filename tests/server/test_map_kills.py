"""A server that is killed while it maps files: what was answered is kept, and the next one computes the rest."""

from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from map_calls import numbered
from project_trees import write
from raw_calls import ask, said
from server_pipes import home_in, serving

from gemma_mcp.testing.engines import EngineHome

CALL = {"instruction": "!slow 0.005 Say it.", "files": ["*.txt"], "max_tokens": 15}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[EngineHome]:
    home = home_in(tmp_path / "home")
    yield home
    assert home.end() == []


def wait_until(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        with anyio.fail_after(60):
            while not condition():
                await anyio.sleep(0.01)

    anyio.run(wait)


def test_a_killed_server_leaves_whole_rows_and_the_next_one_goes_on(home: EngineHome, project: Path) -> None:
    write(project, numbered(9))

    def rows() -> list[bytes]:
        found = list((home.places.maps / "results").glob("*.jsonl"))
        return found[0].read_bytes().splitlines(keepends=True) if found else []

    with serving(home.environ, project) as server:
        server.start()
        ask(server, 1, "map_files", **CALL)
        wait_until(lambda: len(rows()) >= 3)
        server.process.kill()
        server.process.wait()
    kept = len(rows())
    assert 3 <= kept < 9
    assert all(row.endswith(b"\n") for row in rows())
    with serving(home.environ, project) as server:
        server.start()
        ask(server, 1, "map_files", **CALL)
        assert said(server, 1)[0].startswith(f"9 files: 9 done ({kept} by an earlier call, ")
    assert len(rows()) == 9
