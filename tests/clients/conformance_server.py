"""Our server over HTTP with the fixtures of the conformance suite added to it: `python conformance_server.py`.

Prints its URL and serves until it is ended. It is the application that `gemma-mcp serve --http` gives each client,
without the door before it, since the suite cannot send a token.
"""

import os
import socket

import anyio
import uvicorn
from conformance_contents import add_contents
from conformance_questions import REQUIRED_TASKS, add_questions
from mcp.server import MCPServer
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.types import JSONRPCMessage

from gemma_mcp.client.pool import EnginePool
from gemma_mcp.places import Places
from gemma_mcp.server.app import build_server
from gemma_mcp.server.http_app import MCP_PATH, allowed_names, max_body_bytes, mcp_app
from gemma_mcp.server.tasks import Tasks
from gemma_mcp.settings_sources import load_settings

RETRY_MS = 100


class Events(EventStore):
    """What was sent, by stream, so that a client whose stream was closed can ask for the rest."""

    def __init__(self) -> None:
        self._sent: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self._sent.append((stream_id, message))
        return str(len(self._sent) - 1)

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        last = int(last_event_id)
        stream = self._sent[last][0]
        for number, (of, message) in enumerate(self._sent[last + 1 :], last + 1):
            if of == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


def add_fixtures(server: MCPServer) -> None:
    add_contents(server)
    add_questions(server)


async def main() -> None:
    settings = load_settings(os.environ).settings
    tasks = Tasks(settings.server, required=REQUIRED_TASKS)
    places = Places.find(os.environ)
    async with EnginePool(settings, places) as pool:
        server = build_server(pool, settings, None, places, extra=add_fixtures, tasks=tasks)
        app = mcp_app(
            server,
            allowed_names(),
            max_body_bytes(settings.server),
            event_store=Events(),
            retry_interval=RETRY_MS,
        )
        with socket.create_server(("127.0.0.1", 0)) as listener:
            print(f"http://127.0.0.1:{listener.getsockname()[1]}{MCP_PATH}", flush=True)
            await uvicorn.Server(uvicorn.Config(app, log_level="error")).serve([listener])


if __name__ == "__main__":
    anyio.run(main)
