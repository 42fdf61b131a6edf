"""Who is measured: an engine behind OpenAI's HTTP, and how it wants to be asked."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from gemma_mcp.bench.exchange import Exchange, read_models, read_version
from gemma_mcp.bench.home import OwnEngine
from gemma_mcp.errors import RemoteError

__all__ = ["Peer", "Target", "TargetSetup", "peer_target"]

PEER_OPTIONS: Mapping[str, Any] = {"ignore_eos": True, "cache_prompt": True}
"""What llama.cpp's server and vLLM know beyond OpenAI's API."""


@dataclass(frozen=True)
class TargetSetup:
    """What is written down about a target. `settings`: those of an engine of ours that bear on speed; `note`: what the
    user says of a peer, such as its flags.
    """

    name: str
    kind: str
    model: str
    runtime: str = ""
    device: str = ""
    version: str = ""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    note: str = ""


@dataclass(frozen=True)
class Target:
    """An engine to measure. `home` is None for a peer, which nobody here can restart or look into."""

    setup: TargetSetup
    http: httpx2.AsyncClient
    url: str
    headers: Mapping[str, str]
    home: OwnEngine | None = None

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return self.setup.name

    def completion(self, prompt: str, max_tokens: int, **options: Any) -> Exchange:
        """A greedy continuation of the prompt, of exactly `max_tokens` tokens."""
        return self._exchange("/v1/completions", max_tokens, {"prompt": prompt, **options})

    def chat(self, messages: list[dict[str, Any]], max_tokens: int, **options: Any) -> Exchange:
        """The same for a conversation."""
        return self._exchange("/v1/chat/completions", max_tokens, {"messages": messages, **options})

    def _exchange(self, path: str, max_tokens: int, body: dict[str, Any]) -> Exchange:
        asked = {
            "model": self.setup.model,
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.setup.options,
            **body,
        }
        url, headers = self.url, self.headers
        if self.home is not None:  # it may have been restarted, on another port
            url, headers = self.home.url, self.home.headers
        return Exchange(self.http, self.name, url + path, headers, asked)


@dataclass(frozen=True)
class Peer:
    """An engine that runs already. `model`: what it calls the model; None takes the first that it names. `key`: what
    lets a request in, if it needs one. `note`: how it was started.
    """

    name: str
    url: str
    model: str | None = None
    key: str = field(default="", repr=False)
    note: str = ""


async def peer_target(http: httpx2.AsyncClient, peer: Peer, bias: Mapping[str, float]) -> Target:
    """The peer, asked with as many of its own options as it takes. `bias`: against tokens that end a reply.

    Raises RemoteError when it does not answer, or refuses what every such engine understands.
    """
    root = peer.url.rstrip("/").removesuffix("/v1")
    headers = {"authorization": f"Bearer {peer.key}"} if peer.key else {}
    served = peer.model or (await read_models(http, peer.name, root, headers))[0]
    version = await read_version(http, root, headers)
    setup = TargetSetup(name=peer.name, kind="peer", model=served, version=version, note=peer.note)
    plain: dict[str, Any] = {"logit_bias": dict(bias)} if bias else {}
    refusal: RemoteError | None = None
    for options in (plain | dict(PEER_OPTIONS), plain):
        target = Target(dataclasses.replace(setup, options=options), http, root, headers)
        try:
            await target.completion("a b c", 1).run()
        except RemoteError as error:
            refusal = refusal or error
        else:
            return target
    assert refusal is not None
    raise refusal
