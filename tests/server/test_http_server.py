"""`gemma-mcp serve --http` as clients meet it, in both eras of the protocol, with a real engine behind it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx2
import pytest
from http_servers import (
    MODERN,
    SECONDS,
    HttpServer,
    client_of,
    open_session,
    project_in,
    request,
    serving_http,
    wait_for_running,
)
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, ResourceTemplateReference
from scripted_engine import texts

from gemma_mcp.errors import ConfigError
from gemma_mcp.places import Places
from gemma_mcp.server.http_clients import Tokens
from gemma_mcp.testing.engines import EngineHome

ERAS = [MODERN, "legacy"]
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """A server with two clients that have projects, and one that has none."""
    folder = tmp_path_factory.mktemp("http")
    left, right = project_in(folder / "left", "the left one"), project_in(folder / "right", "the right one")
    settings = {
        "GEMMA_MCP_MODEL_DEFAULT": "echo",
        "GEMMA_MCP_HTTP_CLIENTS": json.dumps([f"left={left}", f"right={right}", "guest"]),
        "GEMMA_MCP_HTTP_ALLOWED_ORIGINS": '["https://page.example"]',
        "GEMMA_MCP_SERVER_MAX_PROMPT_BYTES": "1000000",
        "GEMMA_MCP_SERVER_MAX_IMAGE_BYTES": "1000000",
    }
    home = EngineHome(folder / "home", settings)
    try:
        with serving_http(home) as server:
            yield server
    finally:
        home.end()


@pytest.mark.parametrize("era", ERAS)
async def test_tools_answer_a_client_with_a_token(server: HttpServer, era: str) -> None:
    async with client_of(server.url, server.token("left"), era) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == [
            "generate_text",
            "complete_code",
            "analyze_image",
            "chat",
            "map_files",
        ]
        result = await client.call_tool("generate_text", {"prompt": "Over HTTP."})
        assert texts(result)[0] == "Over HTTP."
        with pytest.raises(MCPError) as caught:
            await client.call_tool("generate_txt", {})
    assert caught.value.error.code == INVALID_PARAMS


@pytest.mark.parametrize("era", ERAS)
async def test_each_client_names_files_of_its_own_project(server: HttpServer, era: str) -> None:
    for name, other in (("left", "right"), ("right", "left")):
        async with client_of(server.url, server.token(name), era) as client:
            own = await client.call_tool("generate_text", {"prompt": "x", "files": ["note.txt"]})
            assert f"the {name} one" in texts(own)[0]
            theirs = await client.call_tool("generate_text", {"prompt": "x", "files": [f"../{other}/note.txt"]})
            assert theirs.is_error
            assert "outside the project folder" in texts(theirs)[0]


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_without_a_project_is_told_how_to_get_one(server: HttpServer, era: str) -> None:
    async with client_of(server.url, server.token("guest"), era) as client:
        for tool, arguments in (
            ("generate_text", {"prompt": "x", "files": ["note.txt"]}),
            ("generate_text", {"prompt": "x", "files": ["note.txt:1-2"]}),
            ("complete_code", {"file": "note.txt", "line": 1}),
            ("analyze_image", {"images": ["picture.png"]}),
        ):
            refused = await client.call_tool(tool, arguments)
            assert refused.is_error
            assert "no project folder" in texts(refused)[0]
            assert "http.clients" in texts(refused)[0]
        assert '"" (no project folder)' in str(await client.read_resource("gemma://status"))
        image = await client.call_tool("analyze_image", {"images": [PICTURE], "question": "What?"})
        assert "What?" in texts(image)[0]


async def ask(server: HttpServer, path: str = "/mcp", method: str = "POST", **headers: str) -> httpx2.Response:
    """One request by hand, with the token of `left` unless the headers say otherwise."""
    given, body = request("tools/list", {})
    given |= {"authorization": f"Bearer {server.token('left')}"} | headers
    async with httpx2.AsyncClient(trust_env=False, timeout=SECONDS) as http:
        url = httpx2.URL(server.url).copy_with(path=path)
        return await http.request(method, url, headers=encoded(given), content=body if method == "POST" else None)


def encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer wrong", "Basic eDp5", "Bearer \u00e9"])
@pytest.mark.parametrize(("path", "method"), [("/mcp", "POST"), ("/mcp", "GET"), ("/mcp", "DELETE"), ("/x", "GET")])
async def test_without_a_known_token_no_path_is_open(
    server: HttpServer, authorization: str, path: str, method: str
) -> None:
    response = await ask(server, path, method, authorization=authorization)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert "http-token" in response.text


@pytest.mark.parametrize(
    ("headers", "status", "setting"),
    [
        ({"origin": "https://evil.example"}, 403, "http.allowed_origins"),
        ({"origin": "null"}, 403, "http.allowed_origins"),
        ({"host": "evil.example"}, 421, "http.allowed_hosts"),
        ({"host": "127.0.0.1.evil.example:80"}, 421, "http.allowed_hosts"),
    ],
)
@pytest.mark.parametrize("token", [True, False])
async def test_foreign_names_and_origins_are_refused_before_the_token_is_looked_at(
    server: HttpServer, headers: dict[str, str], status: int, setting: str, token: bool
) -> None:
    response = await ask(server, **headers, **({} if token else {"authorization": ""}))
    assert response.status_code == status
    assert setting in response.text


async def test_pages_and_names_of_this_machine_are_allowed(server: HttpServer) -> None:
    response = await ask(server, origin="http://localhost:6274", host=f"localhost:{server.port}")
    assert response.status_code == 200


async def test_a_page_that_is_allowed_may_ask_first_and_then_needs_the_token(server: HttpServer) -> None:
    asking = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, mcp-method"}
    allowed = await ask(server, method="OPTIONS", origin="https://page.example", authorization="", **asking)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://page.example"
    other = await ask(server, method="OPTIONS", origin="https://evil.example", authorization="", **asking)
    assert other.status_code == 400
    assert "access-control-allow-origin" not in other.headers
    assert (await ask(server, origin="https://page.example", authorization="")).status_code == 401
    answered = await ask(server, origin="https://page.example")
    assert answered.status_code == 200
    assert answered.headers["access-control-allow-origin"] == "https://page.example"


def test_requests_that_are_none_are_refused_and_leave_stderr_quiet(tmp_path: Path) -> None:
    with serving_http(EngineHome(tmp_path / "home", {})) as server:
        with socket.create_connection(("127.0.0.1", server.port or 0), SECONDS) as connection:
            connection.sendall(b"NONSENSE\r\n\r\n")
            assert connection.makefile("rb").read().startswith(b"HTTP/1.1 400 ")
        server.process.terminate()
        status, errors = server.end()
    assert status == 0
    assert all(line.startswith("gemma-mcp: ") for line in errors.splitlines()), errors


async def test_a_body_beyond_the_limit_is_refused_and_one_below_it_is_not(server: HttpServer) -> None:
    limit = 65_536 + 2 * 1_000_000 + 1_000_000 * 4 // 3
    headers, _ = request("tools/list", {})
    headers["authorization"] = f"Bearer {server.token('left')}"
    async with httpx2.AsyncClient(trust_env=False, timeout=SECONDS) as http:

        async def piecewise() -> AsyncGenerator[bytes]:
            for _ in range(limit // 10_000 + 2):
                yield b" " * 10_000

        for content in (b" " * (limit + 1), piecewise()):
            response = await http.post(server.url, headers=headers, content=content)
            assert response.status_code == 413
        assert (await http.post(server.url, headers=headers, content=b" " * limit)).status_code == 400
    async with client_of(server.url, server.token("left")) as client:
        result = await client.call_tool("generate_text", {"prompt": "\n" * 500_000 + "fits"})
        assert texts(result)[0] == "fits"


async def test_a_session_of_the_older_protocol_belongs_to_the_client_that_opened_it(server: HttpServer) -> None:
    listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    accepted = {"accept": "application/json, text/event-stream"}
    async with httpx2.AsyncClient(trust_env=False, timeout=SECONDS) as http:
        session = await open_session(http, server, "left")
        for name, status in (("right", 404), ("left", 200)):
            headers = accepted | session | {"authorization": f"Bearer {server.token(name)}"}
            response = await http.post(server.url, json=listing, headers=headers)
            assert response.status_code == status
            assert ("generate_text" in response.text) == (name == "left")


@pytest.mark.parametrize("era", ERAS)
async def test_no_client_sees_another_ones_conversations(server: HttpServer, era: str) -> None:
    sessions = ResourceTemplateReference(uri="gemma://sessions/{id}")
    typed = {"name": "id", "value": ""}
    async with client_of(server.url, server.token("left"), era) as client:
        said = await client.call_tool("chat", {"message": "a secret"})
        (name,) = re.findall(r"session (s-\w+)", texts(said)[1])
        assert name in (await client.complete(sessions, typed)).completion.values
        assert "a secret" in str(await client.read_resource(f"gemma://sessions/{name}"))
    for other in ("right", "guest"):
        async with client_of(server.url, server.token(other), era) as client:
            assert name not in (await client.complete(sessions, typed)).completion.values
            with pytest.raises(MCPError, match="no session"):
                await client.read_resource(f"gemma://sessions/{name}")
            for more in ({}, {"fork": True}):
                refused = await client.call_tool("chat", {"message": "and?", "session": name, **more})
                assert refused.is_error
                assert "There is no session" in texts(refused)[0]


async def test_no_client_is_given_what_was_computed_for_another_one(server: HttpServer) -> None:
    given = {"instruction": "A question to all.", "files": ["same.txt"]}
    for name in ("left", "right"):
        (server.home.folder.parent / name / "same.txt").write_text("the same", encoding="utf-8")
        async with client_of(server.url, server.token(name), MODERN) as client:
            mapped = texts(await client.call_tool("map_files", given))[0]
            assert mapped.startswith("1 file: 1 done\n")
            assert Path("clients", name).as_posix() in Path(mapped.splitlines()[1]).as_posix()


@asynccontextmanager
async def held_call(
    server: HttpServer, tmp_path: Path, era: str = MODERN
) -> AsyncGenerator[tuple[anyio.CancelScope, anyio.Event]]:
    """A call that the engine works on until its client leaves; the event tells that the server broke it off."""
    broken = anyio.Event()
    name = {"name": "generate_text", "arguments": {"prompt": f"!hold {tmp_path / 'never'} x"}}
    headers, body = request("tools/call", name, "generate_text")
    headers["authorization"] = f"Bearer {server.token('left')}"
    async with httpx2.AsyncClient(trust_env=False, timeout=SECONDS) as http, anyio.create_task_group() as group:
        if era != MODERN:
            headers |= await open_session(http, server, "left")

        async def call() -> None:
            try:
                async with http.stream("POST", server.url, content=body, headers=headers) as response:
                    async for _ in response.aiter_bytes():
                        pass
            except httpx2.TransportError:
                broken.set()

        group.start_soon(call)
        await wait_for_running(server.home, 1)
        yield group.cancel_scope, broken


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_that_leaves_ends_its_generation(server: HttpServer, tmp_path: Path, era: str) -> None:
    async with held_call(server, tmp_path, era) as (connection, _):
        connection.cancel()
    await wait_for_running(server.home, 0)


@pytest.mark.parametrize("era", ERAS)
async def test_a_cancelled_call_says_nothing_more_and_frees_the_engine(
    server: HttpServer, tmp_path: Path, era: str
) -> None:
    seen: list[str] = []

    async def watch(progress: float, total: float | None, message: str | None) -> None:
        seen.append(message or "")

    async with client_of(server.url, server.token("left"), era) as client:
        async with anyio.create_task_group() as group:

            async def call() -> None:
                await client.call_tool(
                    "generate_text", {"prompt": f"!hold {tmp_path / 'never'} x"}, progress_callback=watch
                )

            group.start_soon(call)
            await wait_for_running(server.home, 1)
            group.cancel_scope.cancel()
        await wait_for_running(server.home, 0)
        count = len(seen)
        assert texts(await client.call_tool("generate_text", {"prompt": "next"}))[0] == "next"
        assert len(seen) == count


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send these signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_the_server_at_once_and_frees_the_engine(
    server: HttpServer, tmp_path: Path, number: signal.Signals
) -> None:
    with serving_http(server.home) as mine:
        async with held_call(mine, tmp_path) as (_, broken):
            mine.process.send_signal(number)
            started = time.monotonic()
            status, errors = await anyio.to_thread.run_sync(mine.end)
            seconds = time.monotonic() - started
        assert broken.is_set()
    assert status == 0
    assert seconds < 5  # 0.5 on a machine that has nothing else to do
    assert "Traceback" not in errors
    await wait_for_running(server.home, 0)


def test_a_token_is_private_stays_the_same_and_can_be_renewed(tmp_path: Path) -> None:
    tokens = Tokens(Places.below(tmp_path))
    first = tokens.of(["left", "right"])
    file = tmp_path / "run" / "http-tokens.json"
    if os.name == "posix":
        assert file.stat().st_mode & 0o777 == 0o600
    assert len({*first.values()}) == 2
    assert all(len(token) > 40 for token in first.values())
    assert tokens.of(["right"]) == {"right": first["right"]}
    renewed = tokens.of(["right"], renew=True)
    assert renewed["right"] != first["right"]
    assert tokens.of(["left", "right"]) == first | renewed


@pytest.mark.parametrize("fault", ["damaged", "other users can read it"])
def test_tokens_that_are_not_to_be_trusted_are_not_used(tmp_path: Path, fault: str) -> None:
    tokens = Tokens(Places.below(tmp_path))
    tokens.of(["left"])
    file = tmp_path / "run" / "http-tokens.json"
    if fault == "damaged":
        file.write_text('{"left": 5', encoding="utf-8")
    elif os.name == "posix":
        file.chmod(0o644)
    else:
        pytest.skip("modes of files mean little here")
    with pytest.raises(ConfigError, match=fault) as caught:
        tokens.of(["left"])
    assert "Delete it" in str(caught.value)


def refusal(home: EngineHome, *arguments: str) -> str:
    """The one line with which a command line is refused."""
    done = subprocess.run(
        [sys.executable, "-m", "gemma_mcp", *arguments],
        env=home.environ,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("flags", "settings", "words"),
    [
        (["--host", "0.0.0.0"], {}, "http.allow_remote"),
        (["--host", "192.0.2.1"], {}, "http.allow_remote"),
        (["--host", "0.0.0.0"], {"GEMMA_MCP_HTTP_ALLOW_REMOTE": "true"}, "http.allowed_hosts"),
        ([], {"GEMMA_MCP_HTTP_CLIENTS": "laptop=relative/folder"}, "not an absolute path"),
        ([], {"GEMMA_MCP_HTTP_CLIENTS": '["a b=/x"]'}, "NAME=FOLDER"),
        ([], {"GEMMA_MCP_HTTP_CLIENTS": '["a=/x", "a=/y"]'}, "given twice"),
        ([], {"GEMMA_MCP_HTTP_CLIENTS": '["laptop=/x", "Laptop=/y"]'}, "given twice"),
        ([], {"GEMMA_MCP_HTTP_CLIENTS": '["..=/x"]'}, "NAME=FOLDER"),
    ],
)
def test_a_configuration_that_is_not_safe_or_makes_no_sense_is_refused(
    tmp_path: Path, flags: list[str], settings: dict[str, str], words: str
) -> None:
    home = EngineHome(tmp_path, settings)
    assert words in refusal(home, "serve", "--http", "--port", "0", *flags)


def test_a_port_that_is_taken_is_named(server: HttpServer) -> None:
    assert f"port {server.port} cannot be used" in refusal(server.home, "serve", "--http", "--port", str(server.port))


async def test_an_address_that_others_can_reach_is_served_with_a_warning_and_checks_names(tmp_path: Path) -> None:
    settings = {"GEMMA_MCP_HTTP_ALLOW_REMOTE": "true", "GEMMA_MCP_HTTP_ALLOWED_HOSTS": "gemma.test"}
    with serving_http(EngineHome(tmp_path, settings), "--host", "0.0.0.0") as server:
        assert server.url.startswith("http://gemma.test:")
        token = server.token()
        server.url = f"http://127.0.0.1:{server.port}/mcp"
        headers, body = request("tools/list", {})
        headers["authorization"] = f"Bearer {token}"
        async with httpx2.AsyncClient(trust_env=False, timeout=SECONDS) as http:
            for host, status in ((f"gemma.test:{server.port}", 200), ("gemma.test", 200), ("evil.test", 421)):
                response = await http.post(server.url, content=body, headers=headers | {"host": host})
                assert response.status_code == status
        server.process.terminate()
        assert "plain HTTP" in (await anyio.to_thread.run_sync(server.end))[1]
