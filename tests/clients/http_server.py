"""`gemma-mcp serve --http` in a process of its own."""

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Generator, Mapping
from pathlib import Path

__all__ = ["serving_http"]

CLIENT = "tests"
COMMAND = [sys.executable, "-m", "gemma_mcp"]
SECONDS = 60


@contextlib.contextmanager
def serving_http(environ: Mapping[str, str], project: Path) -> Generator[dict[str, object]]:
    """The server for one client, who may name files in `project`; gives the client's entry for it."""
    environ = {**environ, "GEMMA_MCP_HTTP_CLIENTS": json.dumps([f"{CLIENT}={project}"])}
    server = subprocess.Popen(
        [*COMMAND, "serve", "--http", "--port", "0"],
        env=environ,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        assert server.stderr is not None
        greeting = server.stderr.readline()
        url = re.search(r"http://\S+", greeting)
        assert url, greeting + server.stderr.read()
        yield {"type": "http", "url": url[0], "headers": {"Authorization": f"Bearer {_token(environ)}"}}
    finally:
        server.terminate()
        server.communicate(timeout=SECONDS)


def _token(environ: Mapping[str, str]) -> str:
    command = [*COMMAND, "http-token", CLIENT]
    told = subprocess.run(command, env=environ, capture_output=True, encoding="utf-8", timeout=SECONDS, check=True)
    return told.stdout.strip()
