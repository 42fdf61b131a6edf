"""What the pool makes of engines that are not ours."""

from collections.abc import Callable

import httpx2
import pytest

from gemma_mcp.client.stream import BrokenStreamError, chunks
from gemma_mcp.errors import CapacityError, GemmaError, RemoteError, RequestError

FOREIGN = '{"error": {"message": "too busy", "type": "server_error"}}'


def response(status: int, body: str) -> httpx2.Response:
    return httpx2.Response(status, content=body.encode())


async def texts(reply: httpx2.Response) -> list[str]:
    return [chunk.choices[0].text or "" async for chunk in chunks(reply)]


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (429, FOREIGN, CapacityError, "too busy"),
        (503, FOREIGN, CapacityError, "too busy"),
        (400, FOREIGN, RequestError, "too busy"),
        (500, FOREIGN, RemoteError, "too busy"),
        (502, "<html>bad gateway</html>", RemoteError, "status 502"),
        (404, "[]", RemoteError, "status 404"),
        (404, '{"error": "text"}', RemoteError, "status 404"),
        (200, 'data: {"error": {"message": "it broke"}}\n\n', RemoteError, "it broke"),
        (200, "data: {\n\n", RemoteError, "not understood"),
        (200, 'data: {"choices": [{"text": "a"}]}\n\n', BrokenStreamError, "in the middle"),
        (200, "", BrokenStreamError, "in the middle"),
    ],
)
async def test_every_failure_becomes_one_of_our_errors(
    status: int, body: str, kind: Callable[..., GemmaError], words: str
) -> None:
    with pytest.raises(GemmaError, match=words) as caught:
        await texts(response(status, body))
    assert type(caught.value) is kind


async def test_fields_and_lines_that_are_not_known_are_passed_over() -> None:
    body = ': ping\n\nevent: x\ndata: {"new": 1, "choices": [{"text": "a", "new": 2}]}\n\ndata: [DONE]\n\n'
    assert await texts(response(200, body)) == ["a"]
