"""The HTTP response to a generation request. A client that leaves ends its request."""

import logging
from collections.abc import Awaitable, Callable

import anyio
from starlette.types import Message, Receive, Scope, Send

from gemma_mcp.engine.activity import Activity
from gemma_mcp.engine.guard import error_response
from gemma_mcp.engine.replies import Reply, Shape, dump, error_body
from gemma_mcp.engine.writers import DONE, CheckedWriter, StreamWriter, WholeWriter, sse
from gemma_mcp.errors import GemmaError
from gemma_mcp.wire import ChatCompletion, GenerationOptions

__all__ = ["GenerationResponse"]

logger = logging.getLogger(__name__)

Work = Callable[[Reply], Awaitable[None]]
Validate = Callable[[str], None] | None


class GenerationResponse:
    """Runs `work` and writes what it tells: as a stream or in one piece, as `options` say."""

    def __init__(
        self, work: Work, shape: Shape, options: GenerationOptions, validate: Validate, activity: Activity
    ) -> None:
        self._work = work
        self._shape = shape
        self._options = options
        self._validate = validate
        self._activity = activity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_left, receive, tasks.cancel_scope)
            output = _Output(send)
            try:
                await self._answer(output)
            except GemmaError as error:
                await self._fail(output, error, scope, receive, send)
            except Exception:
                logger.exception("A request failed")
                error = GemmaError("The engine failed at this request.", "`gemma-mcp engine logs` says more.")
                await self._fail(output, error, scope, receive, send)
            tasks.cancel_scope.cancel()

    async def _answer(self, output: "_Output") -> None:
        async with self._activity.request():
            if self._options.stream:
                await self._work(self._checked(self._streamed(output)))
                await output.end()
            else:
                whole = WholeWriter(self._shape)
                await self._work(self._checked(whole))
                assert whole.reply is not None
                await output.start("application/json")
                await output.end(dump(whole.reply))

    def _streamed(self, output: "_Output") -> StreamWriter:
        options = self._options.stream_options
        usage = options is not None and options.include_usage
        return StreamWriter(self._shape, output.write, progress=self._options.return_progress, usage=usage)

    def _checked(self, writer: Reply) -> Reply:
        return CheckedWriter(writer, self._validate) if self._validate else writer

    async def _fail(self, output: "_Output", error: GemmaError, scope: Scope, receive: Receive, send: Send) -> None:
        """With a status of its own as long as nothing was sent, else as the stream's last chunk."""
        if not output.started:
            await error_response(error)(scope, receive, send)
            return
        await output.write(sse(dump(ChatCompletion(error=error_body(error)))))
        await output.end(DONE)


class _Output:
    """A response's body; the head goes out with the first part of it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def start(self, kind: str) -> None:
        self.started = True
        headers = [(b"content-type", kind.encode()), (b"cache-control", b"no-store")]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def write(self, data: bytes) -> None:
        if not self.started:
            await self.start("text/event-stream; charset=utf-8")
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": False})


async def _until_left(receive: Receive, scope: anyio.CancelScope) -> None:
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()
    scope.cancel()
