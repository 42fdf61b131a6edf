"""The protocol's own conformance suite, with its fixtures added to our server (conformance_server.py)."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gemma_mcp.testing.engines import EngineHome

pytestmark = pytest.mark.clients

Client = Callable[..., subprocess.CompletedProcess[str]]
SERVER = Path(__file__).with_name("conformance_server.py")

SKIPPED = {"2025-11-25": set[str](), "2026-07-28": {"tasks-status-notifications"}}
"""The suite looks for these notifications where the older tasks had them, and says that it does."""


@pytest.fixture(scope="module")
def url(home: EngineHome) -> Iterator[str]:
    """Where our server listens, with the fixtures added."""
    server = subprocess.Popen(
        [sys.executable, str(SERVER)],
        env={**home.environ, "GEMMA_MCP_SERVER_TASK_AFTER_SECONDS": "0.1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert address, "the server did not start; run conformance_server.py to see why"
        yield address
    finally:
        server.terminate()
        server.communicate()


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
def test_the_server_does_all_that_a_revision_of_the_protocol_requires(
    run_client: Client, url: str, project: Path, revision: str
) -> None:
    options = ["--requirements", revision, "--timeout", "120000"]  # milliseconds a scenario, on a busy machine
    done = run_client("conformance", "server", "--url", url, *options, "-o", str(project))
    assert done.returncode == 0, done.stdout + done.stderr
    run = {_scenario(path): json.loads(path.read_text(encoding="utf-8")) for path in project.glob("*/checks.json")}
    listed = run_client("conformance", "list", "--requirements", revision).stdout
    assert set(run) == _scenarios(listed)
    states = {(scenario, check["status"]) for scenario, checks in run.items() for check in checks}
    failed = {scenario for scenario, status in states if status not in ("SUCCESS", "INFO", "SKIPPED")}
    skipped = {scenario for scenario, status in states if status == "SKIPPED"}
    assert (failed, skipped) == (set(), SKIPPED[revision]), done.stdout


def _scenario(path: Path) -> str:
    """From a folder such as `server-ping-2026-11-27T06-26-31-293Z`."""
    return re.sub(r"^server-|-\d{4}-\d\d-\d\dT[\dZ-]+$", "", path.parent.name)


def _scenarios(listed: str) -> set[str]:
    """All that are run against a server, those that are not scored among them."""
    required, _, extra = listed.partition("Run and reported")
    named = required.partition("Server scenarios")[2].partition("Client scenarios")[0]
    return set(re.findall(r"- (\S+)", named)) | set(re.findall(r"- (\S+) \[server\]", extra))
