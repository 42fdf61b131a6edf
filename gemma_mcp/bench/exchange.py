"""One request and its streamed reply, with the time at which each piece came."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import anyio
import httpx2
import msgspec

from gemma_mcp.errors import RemoteError

__all__ = ["Exchange", "Reply", "new_http", "read_models", "read_version"]

CONNECT_SECONDS = 10.0
DATA = "data:"
DONE = "[DONE]"
SHOWN_CHARACTERS = 200


class _Text(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    text: str | None = None
    delta: _Text | None = None

    @property
    def said(self) -> bool:
        return bool(self.text or (self.delta and self.delta.content))


class _Cached(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Cached | None = None


class _Card(msgspec.Struct, frozen=True):
    model: str = ""
    runtime: str = ""
    device: str = ""
    context_length: int = 0
    images: bool = False


class _Chunk(msgspec.Struct, frozen=True):
    """The fields that are looked at; others are stepped over, which costs the engine's cores little."""

    choices: tuple[_Choice, ...] = ()
    usage: _Usage | None = None
    gemma: _Card | None = None
    error: dict[str, Any] | None = None


class _Model(msgspec.Struct, frozen=True):
    id: str


class _Version(msgspec.Struct, frozen=True):
    build_info: str = ""
    version: str = ""


class _Models(msgspec.Struct, frozen=True):
    data: tuple[_Model, ...]


@dataclass(frozen=True)
class Reply:
    """A finished reply, measured from outside, in seconds.

    `ttft`: until the first text. `tpot`: from the first text to the last, per completion token after the first.
    `started`: on the clock of time.perf_counter(). Token counts are the engine's own.
    """

    started: float
    seconds: float
    ttft: float
    tpot: float
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    card: _Card | None = None


class Exchange:
    """A request that is to be sent. While it runs, `arrivals` grows by the time of each piece of text.

    `flowing` is set when `enough` pieces have come. `strict`: a reply that ends early is an error.
    """

    def __init__(
        self, http: httpx2.AsyncClient, name: str, url: str, headers: Mapping[str, str], body: Mapping[str, Any]
    ) -> None:
        self._http = http
        self._name = name
        self._url = url
        self._headers = {**headers, "content-type": "application/json"}
        self._body = body
        self._usage: _Usage | None = None
        self._card: _Card | None = None
        self.arrivals: list[float] = []
        self.enough = 1
        self.strict = True
        self.flowing = anyio.Event()

    async def run(self) -> Reply:
        """Send it and read the reply to its end.

        Raises RemoteError when the engine refuses, fails, is gone, or ends before the tokens that were asked for.
        """
        data = msgspec.json.encode(self._body)
        started = time.perf_counter()
        try:
            async with self._http.stream("POST", self._url, content=data, headers=self._headers) as response:
                if response.status_code >= 400:
                    raise _refused(self._name, response.status_code, await response.aread())
                await self._read(response)
        except httpx2.TransportError as error:
            raise _unreachable(self._name, error) from error
        return self._reply(started, time.perf_counter() - started)

    async def _read(self, response: httpx2.Response) -> None:
        async for line in response.aiter_lines():
            text = line.removeprefix(DATA).strip()
            if line.startswith(DATA) and text != DONE:
                self._take(text)

    def _take(self, text: str) -> None:
        try:
            chunk = msgspec.json.decode(text, type=_Chunk)
        except msgspec.DecodeError as error:
            raise RemoteError(f"The engine {self._name!r} sent something that is not understood: {error}.") from error
        if chunk.error is not None:
            raise RemoteError(f"The engine {self._name!r} failed: {_message(chunk.error)}.")
        if any(choice.said for choice in chunk.choices):
            self.arrivals.append(time.perf_counter())
            if len(self.arrivals) == self.enough:
                self.flowing.set()
        self._usage = chunk.usage or self._usage
        self._card = chunk.gemma or self._card

    def _reply(self, started: float, seconds: float) -> Reply:
        usage, arrivals = self._usage, self.arrivals
        if usage is None or (self.strict and not arrivals):
            what = "no text" if usage else "no usage"
            raise RemoteError(
                f"The engine {self._name!r} sent {what}, so it cannot be measured.",
                "It must stream text and know stream_options.include_usage.",
            )
        if self.strict and usage.completion_tokens < self._body["max_tokens"]:
            raise self._early(usage.completion_tokens)
        first, last = (arrivals[0], arrivals[-1]) if arrivals else (started + seconds, started + seconds)
        details = usage.prompt_tokens_details
        return Reply(
            started=started,
            seconds=seconds,
            ttft=first - started,
            tpot=(last - first) / max(1, usage.completion_tokens - 1),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=(details and details.cached_tokens) or 0,
            card=self._card,
        )

    def _early(self, tokens: int) -> RemoteError:
        return RemoteError(
            f"The engine {self._name!r} ended a reply after {tokens} of {self._body['max_tokens']} tokens, "
            "so its times cannot be compared.",
            "Use --synthetic, or an engine that knows logit_bias or ignore_eos.",
        )


async def read_models(http: httpx2.AsyncClient, name: str, url: str, headers: Mapping[str, str]) -> list[str]:
    """The names of the models that an engine serves. Raises RemoteError when it does not say."""
    try:
        response = await http.get(f"{url}/v1/models", headers=headers, timeout=CONNECT_SECONDS)
        if response.status_code >= 400:
            raise _refused(name, response.status_code, response.content)
        names = [model.id for model in msgspec.json.decode(response.content, type=_Models).data]
    except httpx2.TransportError as error:
        raise _unreachable(name, error) from error
    except msgspec.DecodeError:
        names = []
    if not names:
        raise RemoteError(
            f"{url}/v1/models names no model.",
            "Name the model with --peer-model.",
        )
    return names


async def read_version(http: httpx2.AsyncClient, url: str, headers: Mapping[str, str]) -> str:
    """What the engine says of its version where llama.cpp's server and vLLM say it; empty when it does not."""
    for path in ("/props", "/version"):
        with suppress(httpx2.HTTPError, msgspec.DecodeError):
            response = await http.get(url + path, headers=headers, timeout=CONNECT_SECONDS)
            told = msgspec.json.decode(response.content, type=_Version)
            if told.build_info or told.version:
                return (told.build_info or told.version)[:SHOWN_CHARACTERS]
    return ""


def new_http() -> httpx2.AsyncClient:
    """A connection for each request, and no limit of time: slow engines are to be measured, too.

    No connection is used twice: some engines close idle ones just when the next request is sent.
    """
    return httpx2.AsyncClient(
        trust_env=False,
        timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
    )


def _refused(name: str, status: int, body: bytes) -> RemoteError:
    try:
        why = _message(msgspec.json.decode(body)["error"])
    except (ValueError, KeyError, TypeError):
        why = body.decode("utf-8", "replace").strip()[:SHOWN_CHARACTERS] or "without a word"
    return RemoteError(f"The engine {name!r} refused a request with status {status}: {why}.")


def _message(error: Any) -> str:
    """Of an OpenAI error object, or whatever it is."""
    fields = cast("dict[str, Any]", error) if isinstance(error, dict) else {"message": error}
    return str(fields.get("message", fields)).strip().rstrip(".")[:SHOWN_CHARACTERS]


def _unreachable(name: str, error: Exception) -> RemoteError:
    why = (str(error) or type(error).__name__).rstrip(".")
    return RemoteError(f"The engine {name!r} cannot be reached: {why}.", "Is it running, at the address given?")
