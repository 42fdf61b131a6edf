"""A real server under fire: what it must do after whatever it was sent, checked on every line that it writes."""

import base64
import contextlib
import json
import queue
import subprocess
import sys
import threading
from typing import Any

from fuzz_trees import CANARY, Tree

from gemma_mcp.testing.engines import EngineHome
from gemma_mcp.testing.errors import INSIDE, assert_plain_text

SECONDS = 60
"""After which a server that does not answer counts as hung."""

ERA = "2026-07-28"


class FuzzServer:
    """The server's process and everything that it says."""

    def __init__(self, home: EngineHome, tree: Tree, *, handshake: bool = True) -> None:
        environ = {**home.environ, "FUZZ_CANARY": CANARY}
        self.tree = tree
        self._handshake = handshake
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gemma_mcp"],
            env=environ,
            cwd=tree.project,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._input = self._process.stdin
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._errors: list[bytes] = []
        self._number = 0
        self._threads = [threading.Thread(target=read, daemon=True) for read in (self._listen, self._overhear)]
        for thread in self._threads:
            thread.start()
        if handshake:
            self._open()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._messages.put(line)
        self._messages.put(None)

    def _overhear(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(self._process.stderr)

    def _open(self) -> None:
        about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "fuzz", "version": "1"}}
        self.request("initialize", about)
        self.send(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode() + b"\n")

    def send(self, data: bytes) -> None:
        """Anything at all."""
        self._input.write(data)
        self._input.flush()

    def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The answer to a valid request, whatever was sent before: it is there, and it is the only one."""
        self._number += 1
        identity = f"check-{self._number}"
        if not self._handshake:
            params = {**params, "_meta": _modern_meta()}
        message = {"jsonrpc": "2.0", "id": identity, "method": method, "params": params}
        self.send(b"\n" + json.dumps(message).encode() + b"\n")
        while (answer := self.next()).get("id") != identity:
            pass
        return answer

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The result of a tool, or the protocol's error, with what holds for all of them checked."""
        answer = self.request("tools/call", {"name": tool, "arguments": arguments})
        result = answer.get("result", {})
        if result.get("isError"):
            (block,) = result["content"]
            assert_plain_text(block["text"], hint=False)
            assert "process ended" not in block["text"], "a worker crashed"
            assert "failed inside" not in block["text"], self.errors()
        else:
            assert "result" in answer or answer["error"]["message"], answer
        return answer

    def next(self) -> dict[str, Any]:
        """The next message; every line is one, and tells nothing that it should not."""
        try:
            line = self._messages.get(timeout=SECONDS)
        except queue.Empty:
            raise AssertionError("the server hangs") from None
        assert line is not None, f"the server ended: {self.errors()}"
        assert CANARY.encode() not in line, "the canary got out"
        assert base64.b64encode(CANARY.encode())[:16] not in line, "the canary got out"
        assert b"Traceback" not in line
        message = json.loads(line)
        assert message["jsonrpc"] == "2.0"
        if "error" in message:
            assert not INSIDE.search(str(message["error"]["message"])), message
        return message

    def errors(self) -> str:
        """What it wrote to stderr."""
        return b"".join(self._errors).decode("utf-8", "replace")

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def end(self) -> None:
        """Close its input, and see that it ends as it should."""
        self._input.close()
        status = self._process.wait(SECONDS)
        assert status == 0, f"exit status {status}: {self.errors()}"
        assert "Traceback" not in self.errors(), self.errors()
        assert CANARY not in self.errors()
        self._close()

    def kill(self) -> None:
        """For a test that failed."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        for thread in self._threads:
            thread.join(SECONDS)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _modern_meta() -> dict[str, Any]:
    prefix = "io.modelcontextprotocol"
    return {
        f"{prefix}/protocolVersion": ERA,
        f"{prefix}/clientCapabilities": {},
        f"{prefix}/clientInfo": {"name": "fuzz", "version": "1"},
    }
