"""Who is measured: an engine behind OpenAI's HTTP, and how it wants to be asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from gemma_mcp.bench.exchange import Exchange, read_models
from gemma_mcp.bench.home import OwnEngine
from gemma_mcp.errors import RemoteError

__all__ = ["Target", "TargetSetup", "peer_target"]

PEER_OPTIONS: Mapping[str, Any] = {"ignore_eos": True, "cache_prompt": True}
"""What llama.cpp's server and vLLM know beyond OpenAI's API."""


@dataclass(frozen=True)
class TargetSetup:
    """What is written down about a target. `settings`: those of an engine of ours that bear on speed."""

    name: str
    kind: str
    model: str
    runtime: str = ""
    device: str = ""
    version: str = ""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])


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


async def peer_target(
    http: httpx2.AsyncClient, name: str, url: str, model: str | None, key: str, bias: Mapping[str, float]
) -> Target:
    """A peer that runs at `url`, asked with as many of its own options as it takes.

    Raises RemoteError when it does not answer, or refuses what every such engine understands.
    """
    root = url.rstrip("/").removesuffix("/v1")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    served = model or (await read_models(http, name, root, headers))[0]
    plain: dict[str, Any] = {"logit_bias": dict(bias)} if bias else {}
    refusal: RemoteError | None = None
    for options in (plain | dict(PEER_OPTIONS), plain):
        setup = TargetSetup(name=name, kind="peer", model=served, options=options)
        target = Target(setup, http, root, headers)
        try:
            await target.completion("a b c", 1).run()
        except RemoteError as error:
            refusal = refusal or error
        else:
            return target
    assert refusal is not None
    raise refusal
