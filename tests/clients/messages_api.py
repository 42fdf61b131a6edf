"""The service behind Claude Code, played on loopback: the Messages API with a script in place of a model.

Claude Code is told with ANTHROPIC_BASE_URL to talk to it. What a turn says depends on the conversation alone, so a
request that the client repeats, or asks on the side, moves nothing.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import uvicorn
from anyio import to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

__all__ = ["KEY", "LAST_WORD", "MessagesApi", "ToolUse", "playing", "text_of"]

LOADING = "toolu_loading"

KEY = "sk-ant-api03-no-key-at-all-only-a-name-that-looks-like-one"
"""What the client sends as its key. Nobody checks it."""

LAST_WORD = "That is all."
"""What the model says when its script has ended."""

USAGE = {"input_tokens": 10, "output_tokens": 5, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}


@dataclass(frozen=True)
class ToolUse:
    """A call that the model asks for: one of our tools, with these arguments."""

    tool: str
    arguments: Mapping[str, Any]

    def block(self, place: str) -> dict[str, Any]:
        name = f"mcp__gemma__{self.tool}"
        return {"type": "tool_use", "id": f"toolu_{place}", "name": name, "input": dict(self.arguments)}


Turn = Sequence[ToolUse] | Callable[[], Sequence[ToolUse]]
"""Calls made at once; or a function that gives them, which can first do something to the world."""


@dataclass
class MessagesApi:
    """Plays `script`, one turn after another, in every conversation that is offered tools; keeps what was sent."""

    script: Sequence[Turn]
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def app(self) -> Starlette:
        routes = [
            Route("/v1/messages", self._messages, methods=["POST"]),
            Route("/v1/messages/count_tokens", self._count, methods=["POST"]),
        ]
        return Starlette(routes=routes)

    @property
    def results(self) -> list[dict[str, Any]]:
        """The results of our tools that the model was shown, in the order of the longest conversation."""
        talks = [body["messages"] for body in list(self.bodies)]
        blocks = [[block for message in talk for block in _blocks(message)] for talk in talks]
        found = [[block for block in talk if block.get("type") == "tool_result"] for talk in blocks]
        return [block for block in max(found, key=len) if block["tool_use_id"] != LOADING] if found else []

    @property
    def everything(self) -> str:
        """All that the service was ever sent, as text."""
        return json.dumps(list(self.bodies), ensure_ascii=False)

    async def _messages(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        message = _message(body, await to_thread.run_sync(self._say, body))
        if not body.get("stream"):
            return JSONResponse(message)
        return StreamingResponse(_events(message), media_type="text/event-stream")

    def _say(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """First it looks our tools up, as models do, which waits for a server that is still connecting."""
        done = sum(message["role"] == "assistant" for message in body["messages"]) - 1
        if not body.get("tools") or done >= len(self.script):
            return [{"type": "text", "text": LAST_WORD}]
        if done < 0:
            query = {"query": "select:mcp__gemma__generate_text", "max_results": 1}
            return [{"type": "tool_use", "id": LOADING, "name": "ToolSearch", "input": query}]
        turn = self.script[done]
        uses = turn() if callable(turn) else turn
        return [use.block(f"{done}_{place}") for place, use in enumerate(uses)]

    async def _count(self, request: Request) -> Response:
        return JSONResponse({"input_tokens": len(await request.body()) // 4})


def text_of(result: Mapping[str, Any]) -> list[str]:
    """The texts of a tool's result, which is a list of blocks or, for an error, one string."""
    return [block["text"] for block in _blocks(result) if block.get("type") == "text"]


def _blocks(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return cast("list[dict[str, Any]]", content) if isinstance(content, list) else [{"type": "text", "text": content}]


def _message(body: Mapping[str, Any], content: list[dict[str, Any]]) -> dict[str, Any]:
    tools = any(block["type"] == "tool_use" for block in content)
    return {
        "id": f"msg_{len(body['messages'])}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": "tool_use" if tools else "end_turn",
        "stop_sequence": None,
        "usage": USAGE,
    }


def _events(message: Mapping[str, Any]) -> Iterator[str]:
    """The message as the API streams it."""
    yield _event("message_start", message={**message, "content": [], "stop_reason": None})
    for index, block in enumerate(message["content"]):
        empty, delta = _opened(block)
        yield _event("content_block_start", index=index, content_block=empty)
        yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    reason = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield _event("message_delta", delta=reason, usage={"output_tokens": USAGE["output_tokens"]})
    yield _event("message_stop")


def _opened(block: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    if block["type"] == "text":
        return {"type": "text", "text": ""}, {"type": "text_delta", "text": block["text"]}
    return {**block, "input": {}}, {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}


def _event(kind: str, **fields: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"


@contextlib.contextmanager
def playing(*script: Turn) -> Generator[MessagesApi]:
    """The service with this script, on a port of its own, until the block is left."""
    api = MessagesApi(script)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        api.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(
            uvicorn.Config(api.app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield api
        finally:
            server.should_exit = True
            thread.join()
