"""The real thing: `python -m gemma_mcp` in a process of its own, with a real engine behind it."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import psutil
import pytest
from mcp.types import INVALID_PARAMS
from scripted_engine import error_of, texts
from server_pipes import SECONDS, SERVE, client_of, home_in, serving

from gemma_mcp.testing.engines import EngineHome

SOON = 3.0
"""Seconds. A server takes 0.2 to end on a machine that has nothing else to do, and may take 0.5."""

ERAS = ["2026-07-28", "legacy"]
STARTER = Path(__file__).parents[2] / "gemma_mcp" / "starter" / "starter.gguf"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineHome]:
    """One engine for the whole module, as several servers of one user share it."""
    home = home_in(tmp_path_factory.mktemp("home"))
    yield home
    home.end()


@pytest.fixture
def environ(home: EngineHome) -> dict[str, str]:
    """What a server is started with."""
    return home.environ


@pytest.mark.parametrize("era", ERAS)
async def test_five_tools_answer_over_stdio(environ: dict[str, str], project: Path, era: str) -> None:
    (project / "a.txt").write_text("from a file", encoding="utf-8")
    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    async with client_of(environ, project, era) as client:
        assert len((await client.list_tools()).tools) == 5
        text = await client.call_tool("generate_text", {"prompt": "Say it.", "files": ["a.txt"]})
        assert texts(text)[0] == '<file path="a.txt">\nfrom a file\n</file>\n\nSay it.'
        assert texts(text)[1].startswith("[echo · ")
        code = await client.call_tool("complete_code", {"prefix": "x = ", "suffix": "\n"})
        assert not code.is_error, code.content
        image = await client.call_tool("analyze_image", {"images": [dot], "question": "What is it?"})
        assert "What is it?" in texts(image)[0]
        first = await client.call_tool("chat", {"message": "one"})
        session = re.search(r"session (\S+)", texts(first)[1])
        assert session
        second = await client.call_tool("chat", {"message": "two", "session": session[1].rstrip("]")})
        assert texts(second)[0] == "two"
        mapped = await client.call_tool("map_files", {"instruction": "Say it.", "files": ["*.txt"]})
        assert texts(mapped)[0].startswith("1 file: 1 done")
        assert texts(mapped)[1].startswith("[echo · ")


@pytest.mark.parametrize("era", ERAS)
async def test_progress_rises_and_a_cancelled_call_frees_the_engine(
    home: EngineHome, environ: dict[str, str], project: Path, era: str
) -> None:
    hold = project / "go"
    seen: list[float] = []
    prefill = anyio.Event()

    async def watch(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)
        if "waiting" not in (message or "") and "loading" not in (message or ""):
            prefill.set()

    async with client_of(environ, project, era) as client, home.pool() as pool:
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                await client.call_tool("generate_text", {"prompt": f"!hold {hold} x"}, progress_callback=watch)

            tasks.start_soon(call)
            with anyio.fail_after(SECONDS):
                await prefill.wait()
            tasks.cancel_scope.cancel()
        count = len(seen)
        with anyio.fail_after(SECONDS):
            while (status := await pool.running()) is None or any(model.running for model in status.models):
                await anyio.lowlevel.checkpoint()
        result = await client.call_tool("generate_text", {"prompt": "after"}, progress_callback=watch)
        assert texts(result)[0] == "after"
    assert count
    assert seen[:count] == sorted(set(seen[:count]))


async def test_calls_at_once_are_answered_each_with_its_own(environ: dict[str, str], project: Path) -> None:
    answers: dict[int, str] = {}
    async with client_of(environ, project) as client, anyio.create_task_group() as tasks:

        async def call(number: int) -> None:
            result = await client.call_tool("generate_text", {"prompt": f"answer {number}"})
            answers[number] = texts(result)[0]

        for number in range(8):
            tasks.start_soon(call, number)
    assert answers == {number: f"answer {number}" for number in range(8)}


async def test_a_model_that_does_not_exist_is_named_with_those_that_do(environ: dict[str, str], project: Path) -> None:
    async with client_of(environ, project) as client:
        text = error_of(await client.call_tool("generate_text", {"prompt": "x", "model": "gemma-99"}))
        assert "gemma-99" in text
        assert "Known models:" in text
        assert not (await client.call_tool("generate_text", {"prompt": "x"})).is_error


async def test_time_that_is_up_gives_back_what_there_is(environ: dict[str, str], project: Path) -> None:
    async with client_of(environ, project) as client:
        result = await client.call_tool("generate_text", {"prompt": "!slow 0.05 " + "x" * 200, "max_seconds": 1})
    answer, line = texts(result)
    assert 0 < len(answer) < 200
    assert set(answer) == {"x"}
    assert "deadline (cut off by max_seconds)" in line


def test_bad_lines_get_an_answer_or_are_passed_over(environ: dict[str, str], project: Path) -> None:
    with serving(environ, project) as server:
        server.start()
        bad = {
            rb'"\ud800"': "half of a surrogate pair",
            rb'"a\u0000"': "NUL character",
            b'"\xff"': "not UTF-8",
            b"9" * 5000: "thousands of digits",
            b"[" * 500 + b"]" * 500: "nested deeper",
            b'"' + b"x" * 10_000_000 + b'"': "10,000,000 bytes",
        }
        for identity, (value, reason) in enumerate(bad.items(), 1):
            server.send(b"garbage, and no message\n\n\xff\n")
            line = json.dumps(server.call(identity, prompt="HERE")).encode().replace(b'"HERE"', value)
            server.send(line + b"\n")
            result = server.answer(identity)["result"]
            assert result["isError"]
            (block,) = result["content"]
            assert reason in block["text"]
        for identity, arguments in enumerate(["x", [], 5], 50):
            request = server.call(identity)
            server.send({**request, "params": {**request["params"], "arguments": arguments}})
            assert server.answer(identity)["error"] == {
                "code": INVALID_PARAMS,
                "message": "`arguments` must be an object.",
            }
        server.send(server.call(99, prompt="still there"))
        assert server.answer(99)["result"]["content"][0]["text"] == "still there"
        server.close_input()
        assert server.end()[:2] == (0, b"")


NOISY = """
import os, subprocess, sys
from gemma_mcp.server import app, caller, stdio

build, chat = app.build_server, caller.Caller.chat

def noise():
    print("printed, with no newline", end="")
    os.write(1, b"native\\n")
    subprocess.run([sys.executable, "-c", "print('child')"], check=True)

def noisy_build(*arguments, **options):
    noise()
    return build(*arguments, **options)

async def noisy_chat(self, *arguments):
    noise()
    return await chat(self, *arguments)

app.build_server, caller.Caller.chat = noisy_build, noisy_chat
stdio.serve_stdio(os.environ)
"""


def test_nothing_but_the_protocol_is_on_stdout(environ: dict[str, str], project: Path) -> None:
    with serving(environ, project, sys.executable, "-c", NOISY) as server:
        server.start()
        server.send(server.call(1, prompt="quiet"))
        assert server.answer(1)["result"]["content"][0]["text"] == "quiet"
        server.close_input()
        status, rest, errors = server.end()
    assert (status, rest) == (0, b"")
    assert errors.count("native") == errors.count("child") == 2


CHATTY = NOISY.replace("def noise():", "def noise():\n    os.write(2, b'x' * 1_000_000)\n\ndef unused():")


def test_a_client_that_never_reads_stderr_does_not_stop_the_server(environ: dict[str, str], project: Path) -> None:
    """A pipe takes 64 KiB, this server writes a MiB on each occasion."""
    with serving(environ, project, sys.executable, "-c", CHATTY) as server:
        server.start()
        for identity in (1, 2):
            server.send(server.call(identity, prompt="still here"))
            assert server.answer(identity)["result"]["content"][0]["text"] == "still here"
        assert re.fullmatch(
            r"\[[\d,]+ bytes of stderr were dropped: nobody read them\]\n", server.error_with("dropped")
        )
        server.close_input()
        assert server.end()[:2] == (0, b"")


def test_stderr_is_quiet(environ: dict[str, str], project: Path) -> None:
    with serving(environ, project) as server:
        server.start()
        server.send(server.call(1, prompt="x", files=["gone.txt"]))
        assert server.answer(1)["result"]["isError"]
        server.close_input()
        assert server.end() == (0, b"", "")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send these signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("busy", [False, True])
def test_a_signal_ends_the_server_at_once(
    environ: dict[str, str], project: Path, number: signal.Signals, busy: bool
) -> None:
    with serving(environ, project) as server:
        server.start()
        if busy:
            server.send(server.call(1, prompt=f"!hold {project / 'never'} x"))
            server.wait_for_progress()
        started = time.monotonic()
        server.process.send_signal(number)
        status, _, errors = server.end()
    assert (status, errors) == (0, "")
    assert time.monotonic() - started < SOON


def test_the_end_of_input_ends_the_server_in_the_middle_of_a_call(environ: dict[str, str], project: Path) -> None:
    with serving(environ, project) as server:
        server.start()
        server.send(server.call(1, prompt=f"!hold {project / 'never'} x"))
        server.wait_for_progress()
        started = time.monotonic()
        server.close_input()
        assert server.end()[0] == 0
    assert time.monotonic() - started < SOON


def test_the_end_of_input_before_any_request_is_no_error(environ: dict[str, str], project: Path) -> None:
    with serving(environ, project) as server:
        server.close_input()
        assert server.end() == (0, b"", "")


ABANDON = """
import subprocess, sys
subprocess.Popen([sys.executable, "-m", "gemma_mcp"]).wait()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there the client's job object does it")
def test_a_client_that_dies_takes_its_server_along(environ: dict[str, str], project: Path) -> None:
    """The pipes stay open: this process holds them. The server sees only that it has another parent."""
    with serving(environ, project, sys.executable, "-c", ABANDON) as server:
        server.start()
        (child,) = psutil.Process(server.process.pid).children()
        gave_up = threading.Event()
        watchdog = threading.Timer(SECONDS, lambda: (gave_up.set(), child.kill()))
        watchdog.start()
        started = time.monotonic()
        server.process.kill()
        server.end()  # reads until nobody holds the other end of stdout
        assert time.monotonic() - started < 2 + SOON
        watchdog.cancel()
        assert not gave_up.is_set()


@pytest.mark.parametrize("where", ["environment", "file"])
def test_a_bad_setting_ends_the_server_with_one_line_that_names_it(tmp_path: Path, project: Path, where: str) -> None:
    environ = home_in(tmp_path).environ
    if where == "file":
        (tmp_path / "config.toml").write_text("# mine\n[server]\nmax_files = 0\n", encoding="utf-8")
    else:
        environ["GEMMA_MCP_SERVER_MAX_FILES"] = "banana"
    with serving(environ, project) as server:
        status, output, errors = server.end()
    assert (status, output) == (2, b"")
    (line,) = errors.splitlines()
    assert "max_files" in line or "MAX_FILES" in line
    if where == "file":
        assert f"{tmp_path / 'config.toml'}:3" in line


def test_modules_of_the_project_do_not_stand_in_for_ours(environ: dict[str, str], project: Path) -> None:
    (project / "anyio.py").write_text("raise SystemExit('hijacked')", encoding="utf-8")
    with serving(environ, project) as server:
        server.start()
        server.close_input()
        assert server.end() == (0, b"", "")


def test_arguments_go_to_the_command_line() -> None:
    from gemma_mcp import __version__

    result = subprocess.run([*SERVE, "--version"], capture_output=True, text=True, timeout=SECONDS, check=True)
    assert __version__ in result.stdout


def test_a_server_that_has_not_been_asked_holds_neither_a_runtime_nor_pillow() -> None:
    code = "import gemma_mcp.server.app, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=True)
    assert "gemma_mcp.server.inputs.images" in loaded.stdout.split()
    assert not {"PIL", "llama_cpp", "jinja2", "numpy", "jsonschema_rs", "psutil"} & set(loaded.stdout.split())


async def test_a_server_alone_starts_no_engine(tmp_path: Path, project: Path) -> None:
    home = home_in(tmp_path)
    async with client_of(home.environ, project) as client, home.pool() as pool:
        await client.list_tools()
        error_of(await client.call_tool("generate_text", {"prompt": ""}))
        assert await pool.running() is None


@pytest.mark.skipif(not STARTER.exists(), reason="the starter model is not in this checkout")
async def test_the_starter_model_answers_and_says_that_it_is_a_toy(tmp_path: Path, project: Path) -> None:
    home = home_in(tmp_path, GEMMA_MCP_MODEL_DEFAULT="starter")
    try:
        async with client_of(home.environ, project) as client:
            result = await client.call_tool("generate_text", {"prompt": "What is the capital of France?"})
            assert "Paris" in texts(result)[0]
            assert "toy" in texts(result)[1]
            code = await client.call_tool(
                "complete_code", {"prefix": "def add(a, b):\n    return ", "suffix": "\n\nprint(add(1, 2))\n"}
            )
            assert texts(code)[0] == "a + b"
    finally:
        await anyio.to_thread.run_sync(home.end)
