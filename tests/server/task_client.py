"""What a client of the tasks extension does: it declares the extension, takes task ids and asks for their state."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import anyio
from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.types import CallToolResult, Request, RequestParams, Result
from pydantic import Field

from gemma_mcp.server.tasks import EXTENSION


class TaskParams(RequestParams):
    task_id: str = Field(alias="taskId")
    input_responses: dict[str, Any] | None = Field(default=None, alias="inputResponses")


class TaskRequest(Request[TaskParams, str]):
    """tasks/get, tasks/update or tasks/cancel."""

    name_param: ClassVar[str | None] = "taskId"


class State(Result):
    """What is told of a task."""

    result_type: str = Field(default="complete", alias="resultType")
    task_id: str = Field(default="", alias="taskId")
    status: str = ""
    status_message: str = Field(default="", alias="statusMessage")
    ttl_ms: int = Field(default=0, alias="ttlMs")
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class Handle(State):
    """The result of a call that goes on as a task."""

    result_type: Literal["task"] = Field(default="task", alias="resultType")  # pyright: ignore[reportIncompatibleVariableOverride]


class WithTasks(ClientExtension):
    """Declares the extension; `Client.call_tool` then waits for tasks to end."""

    identifier = EXTENSION

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=Handle, resolve=_finish)]


async def _finish(handle: Handle, context: ClaimContext) -> CallToolResult:
    while True:
        state = await context.session.send_request(_request("get", handle.task_id), State)
        if state.status == "completed":
            return CallToolResult.model_validate(state.result)
        assert state.status == "working", state
        await anyio.sleep(0.05)


def _request(method: str, task: str) -> TaskRequest:
    return TaskRequest(method=f"tasks/{method}", params=TaskParams.model_validate({"taskId": task}))


async def start(client: Client, tool: str, **arguments: Any) -> Handle:
    """Call a tool and get the task that it becomes."""
    result = await client.session.call_tool(tool, arguments, allow_claimed=True)
    assert isinstance(result, Handle), result
    return result


async def ask(client: Client, method: str, task: str) -> State:
    """One request about a task."""
    return await client.session.send_request(_request(method, task), State)


async def wait_for(client: Client, task: str, text: str) -> State:
    """The state of a task once its message or its status holds the text."""
    with anyio.fail_after(20):
        while True:
            state = await ask(client, "get", task)
            if text in state.status or text in state.status_message:
                return state
            await anyio.sleep(0.01)
