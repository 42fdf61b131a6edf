"""Read an engine's replies: server-sent events into chunks, error bodies into errors."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import cast

import httpx2
import msgspec
from pydantic import ValidationError

from gemma_mcp.errors import CapacityError, GemmaError, RemoteError, RequestError, restore
from gemma_mcp.wire import ChatCompletion, ErrorBody

__all__ = ["BrokenStreamError", "chunks", "raise_for_error", "restored"]

DATA = "data:"
DONE = "[DONE]"


class BrokenStreamError(RemoteError):
    """The connection ended before the reply did."""


async def chunks(response: httpx2.Response) -> AsyncGenerator[ChatCompletion]:
    """The chunks of a stream. Raises the error that the engine reports, or BrokenStreamError when it is gone."""
    await raise_for_error(response)
    async for data in _events(response):
        if data == DONE:
            return
        chunk = _chunk(data)
        if chunk.error is not None:
            raise restored(chunk.error)
        yield chunk
    raise BrokenStreamError("The engine ended in the middle of a reply.", "`gemma-mcp engine logs` may say why.")


async def _events(response: httpx2.Response) -> AsyncIterator[str]:
    """Our engine writes each event in one line."""
    async for line in response.aiter_lines():
        if line.startswith(DATA):
            yield line.removeprefix(DATA).strip()


def _chunk(data: str) -> ChatCompletion:
    try:
        return ChatCompletion.model_validate_json(data)
    except ValidationError as error:
        raise RemoteError("The engine sent something that is not understood.", "Are both of one version?") from error


async def raise_for_error(response: httpx2.Response) -> None:
    """Raise what a response of status 400 and more reports."""
    if response.status_code < 400:
        return
    body = await response.aread()
    try:
        error = ErrorBody.model_validate(msgspec.json.decode(body)["error"])
    except (ValueError, KeyError, TypeError):
        raise RemoteError(f"The engine answered with status {response.status_code}.") from None
    raise restored(error, response.status_code)


def restored(error: ErrorBody, status: int = 500) -> GemmaError:
    """The engine's own error; one of a stranger becomes the closest of ours."""
    if error.gemma is not None:
        return restore(cast("Mapping[str, object]", error.gemma))
    if status in (429, 503):
        return CapacityError(error.message, "Try again in a moment.")
    return RequestError(error.message) if 400 <= status < 500 else RemoteError(error.message)
