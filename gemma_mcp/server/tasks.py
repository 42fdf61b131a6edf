"""The tasks extension of the protocol: a call that lasts longer than its request, for clients that declare it.

A call of any tool runs apart from its request. What is done soon is answered as usual; for what lasts longer the client
gets a task's id, asks for its state now and then, and so may wait longer than it would for a single request. A task
lives in the server object that made it: over HTTP each client has its own, so that none sees another's tasks.
"""

import contextvars
import logging
import secrets
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import anyio
import anyio.abc
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Extension, MethodBinding, require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import decode_header_value
from mcp.types import HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, CallToolRequestParams, RequestParams
from pydantic import Field

from gemma_mcp.settings import ServerSettings

__all__ = ["EXTENSION", "Task", "Tasks", "current_task"]

EXTENSION = "io.modelcontextprotocol/tasks"

VERSIONS = frozenset({"2026-07-28"})
"""Revisions of the protocol that know this extension; the tasks of 2025-11-25 were others."""

POLL_MS = 1000

CANCEL_SECONDS = 1.0
"""How long the reply to a cancellation waits for the call to have stopped."""

LONGEST_SECONDS = 86_400
"""What a call may ask for; see `MaxSeconds`."""

Status = Literal["working", "input_required", "completed", "failed", "cancelled"]
Context = ServerRequestContext[Any, Any]

current_task: contextvars.ContextVar["Task | None"] = contextvars.ContextVar("current_task", default=None)
"""The task that the code runs for."""

logger = logging.getLogger(__name__)


class TaskParams(RequestParams):
    """Parameters of tasks/get and tasks/cancel."""

    task_id: str = Field(alias="taskId")


class UpdateParams(TaskParams):
    """Parameters of tasks/update: answers to what the task asked."""

    input_responses: dict[str, Any] = Field(alias="inputResponses")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(eq=False)
class Task:
    """One call. `lifetime`: seconds from its creation until it is forgotten, its result with it."""

    lifetime: float
    id: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    status: Status = "working"
    message: str = ""
    outcome: dict[str, Any] = field(default_factory=dict[str, Any])
    created: str = field(default_factory=_now)
    updated: str = field(default_factory=_now)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    settled: anyio.Event = field(default_factory=anyio.Event)
    dropped: anyio.Event = field(default_factory=anyio.Event)
    result: HandlerResult = None
    error: MCPError | None = None
    asked: int = 0
    questions: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    answers: dict[str, Any] = field(default_factory=dict[str, Any])
    answered: anyio.Event = field(default_factory=anyio.Event)

    def say(self, message: str) -> None:
        """What goes on, for whoever asks; text that is written already travels here and nowhere else."""
        self.message = message
        self.updated = _now()

    def turn(self, status: Status, **outcome: Any) -> None:
        """Change the status; the last one brings the `result` or the `error`."""
        self.status, self.outcome, self.updated = status, outcome, _now()

    def wire(self) -> dict[str, Any]:
        """As the protocol writes it, without its outcome."""
        told = {
            "taskId": self.id,
            "status": self.status,
            "createdAt": self.created,
            "lastUpdatedAt": self.updated,
            "ttlMs": round(self.lifetime * 1000),
            "pollIntervalMs": POLL_MS,
        }
        return told | ({"statusMessage": self.message} if self.message else {})

    async def ask(self, *requests: dict[str, Any]) -> list[Any]:
        """Questions to the client, and what tasks/update answered to each of them."""
        keys = [f"in-{self.asked + number}" for number in range(1, len(requests) + 1)]
        self.asked += len(requests)
        self.questions |= dict(zip(keys, requests, strict=True))
        self.turn("input_required")
        while any(key in self.questions for key in keys):
            self.answered = anyio.Event()
            await self.answered.wait()
        self.turn("working")
        return [self.answers.pop(key) for key in keys]

    def answer(self, responses: dict[str, Any]) -> None:
        """Take answers; those to questions that are not open are ignored, as the protocol wants it."""
        for key in self.questions.keys() & responses.keys():
            self.answers[key] = responses[key]
            del self.questions[key]
        self.updated = _now()
        self.answered.set()


class Tasks(Extension):
    """The calls of one server that run as tasks. `required` names tools that are not run in any other way."""

    identifier = EXTENSION

    def __init__(self, limits: ServerSettings, *, required: Collection[str] = ()) -> None:
        self._limits = limits
        self._required = required
        self._known: dict[str, Task] = {}
        self._group: anyio.abc.TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Tasks live for as long as this context, which belongs into the server's lifespan."""
        async with anyio.create_task_group() as self._group:
            try:
                yield
            finally:
                self._group.cancel_scope.cancel()

    def methods(self) -> Sequence[MethodBinding]:
        """See Extension."""
        return [
            MethodBinding("tasks/get", TaskParams, self._get, VERSIONS),
            MethodBinding("tasks/update", UpdateParams, self._update, VERSIONS),
            MethodBinding("tasks/cancel", TaskParams, self._cancel, VERSIONS),
        ]

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: Context, call_next: CallNext
    ) -> HandlerResult:
        """See Extension. Without the declaration, or with too many tasks under way, a call is answered as usual."""
        if params.name in self._required and ctx.protocol_version in VERSIONS:
            require_client_extension(ctx, EXTENSION)
        if self._group is None or not _declared(ctx) or not self._make_room():
            return await call_next(ctx)
        task = Task(self._lifetime(params))
        self._known[task.id] = task  # it must be known before its id is told
        self._group.start_soon(self._live, task, ctx, call_next)
        return await self._answer(task)

    async def _answer(self, task: Task) -> HandlerResult:
        """As usual as long as that may last: clients show progress then, and Claude Code puts tasks out of sight.

        It must be less than the 60 s after which some clients give up.
        """
        try:
            with anyio.move_on_after(self._limits.task_after_seconds):
                await task.settled.wait()
        except anyio.get_cancelled_exc_class():
            task.scope.cancel()
            task.dropped.set()
            raise
        if not task.settled.is_set():
            return {"resultType": "task", **task.wire()}
        task.dropped.set()
        if task.error is not None:
            raise task.error
        return task.result

    async def _live(self, task: Task, ctx: Context, call_next: CallNext) -> None:
        try:
            with anyio.move_on_after(task.lifetime):
                await _work(task, ctx, call_next)
                await task.dropped.wait()
        finally:
            self._known.pop(task.id, None)

    def _lifetime(self, params: CallToolRequestParams) -> float:
        asked = (params.arguments or {}).get("max_seconds")
        seconds = self._limits.task_max_seconds
        if isinstance(asked, int | float) and 0 < asked <= LONGEST_SECONDS:
            seconds = float(asked)
        return seconds + self._limits.task_keep_seconds

    def _make_room(self) -> bool:
        """Whether one more task may be made; the result that was there first is forgotten if need be."""
        if len(self._known) < self._limits.max_tasks:
            return True
        for task in self._known.values():
            if task.settled.is_set():
                task.dropped.set()
                del self._known[task.id]
                return True
        return False

    # -- the extension's methods --------------------------------------------------------------------------------------

    async def _get(self, ctx: Context, params: TaskParams) -> HandlerResult:
        task = self._find(ctx, params)
        questions = {"inputRequests": dict(task.questions)} if task.status == "input_required" else {}
        return {"resultType": "complete", **task.wire(), **task.outcome, **questions}

    async def _update(self, ctx: Context, params: UpdateParams) -> HandlerResult:
        self._find(ctx, params).answer(params.input_responses)
        return {"resultType": "complete"}

    async def _cancel(self, ctx: Context, params: TaskParams) -> HandlerResult:
        task = self._find(ctx, params)
        task.scope.cancel()
        with anyio.move_on_after(CANCEL_SECONDS):
            await task.settled.wait()
        return {"resultType": "complete"}

    def _find(self, ctx: Context, params: TaskParams) -> Task:
        require_client_extension(ctx, EXTENSION)
        headers = getattr(ctx.request, "headers", None)
        name = headers.get("mcp-name") if headers is not None else None
        if name is not None and decode_header_value(name) != params.task_id:  # the SDK checks its own methods only
            raise MCPError(HEADER_MISMATCH, "The header Mcp-Name does not match taskId.")
        if (task := self._known.get(params.task_id)) is None:
            raise MCPError(INVALID_PARAMS, "There is no such task: it never was, or its time to live is over.")
        return task


def _declared(ctx: Context) -> bool:
    told = ctx.session.client_capabilities
    return ctx.protocol_version in VERSIONS and EXTENSION in ((told and told.extensions) or {})


async def _work(task: Task, ctx: Context, call_next: CallNext) -> None:
    """Run the call and note how it ended."""
    current_task.set(task)
    try:
        with task.scope:
            task.result = await call_next(ctx)
            task.turn("completed", result=_dumped(task.result))
        if task.scope.cancelled_caught:
            task.turn("cancelled")
    except MCPError as error:  # a GemmaError is a result that says so
        _fail(task, error)
    except Exception:
        logger.exception("A call failed inside.")
        _fail(task, MCPError(INTERNAL_ERROR, "The call failed inside. The server's log (stderr) says why."))
    finally:
        task.settled.set()


def _fail(task: Task, error: MCPError) -> None:
    task.error = error
    task.turn("failed", error=error.error.model_dump(exclude_none=True))


def _dumped(result: HandlerResult) -> dict[str, Any]:
    if result is None or isinstance(result, dict):
        return result or {}
    return result.model_dump(by_alias=True, mode="json", exclude_none=True)
