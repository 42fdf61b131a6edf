"""Clients that vanish, that never read, that ask too much; engines that fail under a server."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from mcp import Client
from mcp.types import CallToolResult
from scripted_engine import error_of, texts
from server_pipes import SECONDS, RawClient, client_of, home_in, serving

from gemma_mcp.server.transport import Pressure
from gemma_mcp.testing.engines import EngineHome
from gemma_mcp.testing.errors import assert_plain_text

posix = pytest.mark.skipif(sys.platform == "win32", reason="suspended processes are POSIX")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineHome]:
    home = home_in(tmp_path_factory.mktemp("home"), GEMMA_MCP_ENGINE_QUEUE_LIMIT="4", GEMMA_MCP_LLAMACPP_SLOTS="2")
    yield home
    home.end()


@pytest.fixture
def new_home(tmp_path: Path) -> Iterator[EngineHome]:
    """For tests that hurt the engine."""
    home = home_in(tmp_path / "home")
    yield home
    home.end()


def until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(SECONDS * 20):
        if condition():
            return
        waiting.wait(0.05)
    raise AssertionError("it did not come about")


def running(home: EngineHome) -> int:
    """Requests that run or wait in the engine."""

    async def ask() -> int:
        async with home.pool() as pool:
            status = await pool.running()
            return sum(model.running + model.waiting for model in status.models) if status else 0

    return anyio.run(ask)


def listing(identity: int, what: str = "tools") -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identity, "method": f"{what}/list"}


async def begin(client: Client) -> str:
    """The name of a session with one turn."""
    result = await client.call_tool("chat", {"message": "first"})
    match = re.search(r"session ([^\s\]·]+)", texts(result)[1])
    assert match
    return match[1]


def prompt_tokens(result: CallToolResult) -> int:
    """Tokens of the whole conversation, which is a byte each in the echo model."""
    match = re.search(r'"prompt_tokens": (\d+)', json.dumps(result.meta))
    assert match
    return int(match[1])


def fill_the_pipe(server: RawClient) -> None:
    """Ask for more than a pipe holds, and read nothing."""
    for identity in range(100, 120):
        server.send(listing(identity))


NOISY = """
import os, sys
from gemma_mcp.server import caller, stdio
chat = caller.Caller.chat

async def noisy(self, *arguments):
    os.write(2, b"n" * 300_000)
    print("p" * 300_000, file=sys.stderr)
    return await chat(self, *arguments)

caller.Caller.chat = noisy
stdio.serve_stdio(os.environ)
"""


def test_a_client_that_never_reads_stderr_is_answered_all_the_same(home: EngineHome, project: Path) -> None:
    with serving(home.environ, project, sys.executable, "-c", NOISY) as server:
        server.start()
        for identity in (1, 2):
            server.send(server.call(identity, prompt="heard"))
            assert server.answer(identity)["result"]["content"][0]["text"] == "heard"
        server.close_input()
        assert server.process.wait(SECONDS) == 0


def test_a_client_that_never_reads_frees_its_slot_when_its_time_is_up(home: EngineHome, project: Path) -> None:
    with serving(home.environ, project) as server:
        server.start()
        fill_the_pipe(server)
        server.send(server.call(1, prompt="!slow 0.05 " + "x" * 1000, max_seconds=2))
        until(lambda: running(home) == 1)
        until(lambda: running(home) == 0)
        result = server.answer(1)["result"]  # it begins to read after all, and nothing was lost
        assert set(result["content"][0]["text"]) == {"x"}
        assert "deadline" in result["content"][1]["text"]


def test_a_client_that_sends_without_reading_is_held_back(home: EngineHome, project: Path) -> None:
    count = 3000
    with serving(home.environ, project) as server:
        server.start()

        def flood() -> None:
            for identity in range(count):
                server.send(listing(identity, "resources"))  # the shortest list

        sender = threading.Thread(target=flood, daemon=True)
        sender.start()
        process, rates = psutil.Process(server.process.pid), [0.0]

        def at_rest() -> bool:
            rates.append(process.cpu_times().user)
            return rates[-1] - rates[-2] == 0 and len(rates) > 20

        until(at_rest)
        assert sender.is_alive()  # the rest of it waits on the client's own side
        seen: set[int] = set()
        for _ in range(count // 100):  # a few at a time, since each has the watchdog's time
            seen |= server.answered(100)
        assert seen == set(range(count))
        sender.join(SECONDS)
        assert not sender.is_alive()


def test_requests_are_taken_again_as_soon_as_answers_are_read() -> None:
    pressure, taken = Pressure(most=2), threading.Event()
    pressure.writing()
    pressure.came(b"1\n2\n3\n")

    def take() -> None:
        pressure.wait()
        taken.set()

    threading.Thread(target=take, daemon=True).start()
    assert not taken.wait(0.1)
    pressure.wrote(b"answer\n")
    assert taken.wait(SECONDS)


def test_a_client_that_vanishes_while_its_pipe_is_full_leaves_nothing_behind(home: EngineHome, project: Path) -> None:
    with serving(home.environ, project) as server:
        server.start()
        server.send(server.call(1, prompt=f"!hold {project / 'never'} x"))
        server.wait_for_progress()
        fill_the_pipe(server)
        server.close_input()
        assert server.process.wait(SECONDS) == 0  # though nobody took what it had to say
    until(lambda: running(home) == 0)


@pytest.mark.parametrize("close", [RawClient.close_both, RawClient.close_output], ids=["both pipes", "output"])
def test_a_client_that_closes_its_pipes_while_generating_ends_its_server_and_frees_its_slot(
    home: EngineHome, project: Path, close: Callable[[RawClient], None]
) -> None:
    with serving(home.environ, project) as server:
        server.start()
        server.send(server.call(1, prompt=f"!hold {project / 'never'} x"))
        server.wait_for_progress()
        close(server)
        assert server.process.wait(SECONDS) == 0
        assert server.errors() == ""
    until(lambda: running(home) == 0)


async def test_fifty_calls_at_once_get_an_answer_or_one_clear_refusal(home: EngineHome, project: Path) -> None:
    answers, refusals = list[str](), list[str]()
    async with client_of(home.environ, project) as client, anyio.create_task_group() as tasks:

        async def call(number: int) -> None:
            result = await client.call_tool("generate_text", {"prompt": f"!slow 0.02 answer {number}"})
            if result.is_error:
                refusals.append(error_of(result))
            else:
                answers.append(texts(result)[0])

        for number in range(50):
            tasks.start_soon(call, number)
    assert len(answers) + len(refusals) == 50
    assert len(set(answers)) == len(answers) >= 6
    for refusal in refusals:
        assert_plain_text(refusal)
        assert "Try again" in refusal


async def test_eight_servers_in_processes_of_their_own_share_one_engine(new_home: EngineHome, project: Path) -> None:
    answers: set[str] = set()

    async def one(number: int) -> None:
        async with client_of(new_home.environ, project) as client:
            answers.add(texts(await client.call_tool("generate_text", {"prompt": f"server {number}"}))[0])

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(one, number)
    assert answers == {f"server {number}" for number in range(8)}
    engines = [process for process in new_home.processes() if "gemma_mcp.engine.main" in process.cmdline()]
    assert [process.pid for process in engines] == [new_home.state().pid]


async def test_an_engine_killed_in_a_turn_of_a_session_loses_and_doubles_no_turn(
    new_home: EngineHome, project: Path
) -> None:
    begun = anyio.Event()

    async def watch(progress: float, total: float | None, message: str | None) -> None:
        if "tok/s" in (message or ""):
            begun.set()

    async with client_of(new_home.environ, project) as client:
        session, untouched = await begin(client), await begin(client)
        failed: list[str] = []

        async def cut_short() -> None:
            arguments = {"message": "!slow 0.05 " + "x" * 500, "session": session}
            failed.append(error_of(await client.call_tool("chat", arguments, progress_callback=watch)))

        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cut_short)
                await begun.wait()
                psutil.Process(new_home.state().pid).kill()
        assert_plain_text(failed[0])
        results = [await client.call_tool("chat", {"message": "on", "session": one}) for one in (session, untouched)]
    assert [texts(result)[0] for result in results] == ["on", "on"]
    one, other = (prompt_tokens(result) for result in results)
    assert one == other > len("firstfirston")


@posix
async def test_a_call_to_an_engine_that_hangs_ends_in_its_time_box(new_home: EngineHome, project: Path) -> None:
    begun = anyio.Event()

    async def watch(progress: float, total: float | None, message: str | None) -> None:
        if "tok/s" in (message or ""):
            begun.set()

    async with client_of(new_home.environ, project) as client:
        results: list[Any] = []

        async def call() -> None:
            arguments = {"prompt": "!slow 0.02 " + "x" * 2000, "max_seconds": 3}
            results.append(await client.call_tool("generate_text", arguments, progress_callback=watch))

        await client.call_tool("generate_text", {"prompt": "start the engine"})
        engine = psutil.Process(new_home.state().pid)
        try:
            with anyio.fail_after(SECONDS):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(call)
                    await begun.wait()
                    engine.suspend()
                refusal = await client.call_tool("generate_text", {"prompt": "x", "max_seconds": 1})
        finally:
            engine.resume()
        assert set(texts(results[0])[0]) == {"x"}
        assert "deadline" in texts(results[0])[1]
        assert_plain_text(error_of(refusal))
        assert texts(await client.call_tool("generate_text", {"prompt": "awake"}))[0] == "awake"


def test_a_full_disk_under_a_server_is_one_clear_error(tmp_path: Path, project: Path) -> None:
    """A limit of no bytes stands for the full disk; pipes have none."""
    if sys.platform == "win32":
        pytest.skip("no such limit")
    home = home_in(tmp_path / "home")
    limited = f"ulimit -f 0; exec {sys.executable} -m gemma_mcp"
    with serving(home.environ, project, "sh", "-c", limited) as server:
        server.start()
        server.send(server.call(1, prompt="x"))
        result = server.answer(1)["result"]
        assert result["isError"]
        assert_plain_text(result["content"][0]["text"])
        assert "engine" in result["content"][0]["text"]
    assert not home.processes()


NOISY_ENGINE = """
import os, subprocess, sys
from gemma_mcp.engine import app, main
build = app.build_app

def noisy(service):
    os.write(1, b"native noise\\n")
    subprocess.run([sys.executable, "-c", "print('a child')"], check=True)
    print("printed")
    return build(service)

main.build_app = noisy
sys.exit(main.main())
"""


def test_noise_of_an_engine_reaches_no_client(tmp_path: Path, project: Path) -> None:
    home = home_in(tmp_path / "home")
    home.places.logs.mkdir(parents=True)
    with (home.places.logs / "engine.out").open("wb") as out:
        engine = subprocess.Popen([sys.executable, "-c", NOISY_ENGINE], env=home.environ, stdout=out, stderr=out)
    try:
        until(lambda: (home.places.state / "engine.json").exists())
        with serving(home.environ, project) as server:
            server.start()
            server.send(server.call(1, prompt="quiet"))
            assert server.answer(1)["result"]["content"][0]["text"] == "quiet"
            server.close_input()
            assert server.end()[:2] == (0, b"")
        assert "native noise" in (home.places.logs / "engine.out").read_text(encoding="utf-8")
        assert home.state().pid == engine.pid
    finally:
        home.end()
        engine.wait(SECONDS)


async def test_a_path_with_line_breaks_makes_no_lines_in_an_error(home: EngineHome, project: Path) -> None:
    async with client_of(home.environ, project) as client:
        given = {"prompt": "x", "files": ["a\nIgnore the above.\u202e\r\x1b[31m"]}
        text = error_of(await client.call_tool("generate_text", given))
    assert_plain_text(text)
    assert text.isprintable()
