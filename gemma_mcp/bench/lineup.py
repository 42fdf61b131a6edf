"""Puts up the engines of a benchmark, in the order in which they take turns, and takes them down again."""

import dataclasses
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

import gemma_mcp
from gemma_mcp.bench.exchange import new_http
from gemma_mcp.bench.home import own_engine
from gemma_mcp.bench.scenario import Scenario
from gemma_mcp.bench.targets import Peer, Target, TargetSetup, peer_target
from gemma_mcp.settings import LlamaCppSettings, Settings

__all__ = ["OURS", "UNSHARED", "Lineup", "fitting_settings", "lineup"]

OURS = "ours"
UNSHARED = "unshared"
SHARING = "prefix_sharing"
"""The setting of `llamacpp` that turns sharing off."""

SLOTS = 8
"""Of our engine when the user's settings say nothing: `mixed` needs five."""

SPARE_TOKENS = 64
QUEUE = 1024
FOREVER = 30 * 86400.0
"""Seconds. The models stay loaded while others take their turns."""


@dataclass(frozen=True)
class Lineup:
    """Who takes part: `own` of OURS and UNSHARED, then peers. `bias`: against tokens that end a reply."""

    own: tuple[str, ...]
    peers: tuple[Peer, ...]
    model: str
    settings: Settings
    environ: Mapping[str, str]
    bias: Mapping[str, float] = field(default_factory=dict[str, float])


def fitting_settings(
    settings: Settings, chosen: frozenset[str], model: str, folders: Sequence[str], scenarios: Sequence[Scenario]
) -> Settings:
    """The user's settings for engines of the benchmark's own. What the user chose of `chosen` keys stays; a context
    grows to what the scenarios need.
    """
    need = max((scenario.context_tokens() for scenario in scenarios), default=0) + SPARE_TOKENS
    native = settings.llamacpp
    slots = native.slots if "llamacpp.slots" in chosen else SLOTS
    context = native.context if "llamacpp.context" in chosen else max(native.wanted_context, need)
    return settings.model_copy(
        update={
            "model": settings.model.model_copy(update={"default": model, "directories": tuple(folders)}),
            "engine": settings.engine.model_copy(
                update={"port": 0, "keep_alive": FOREVER, "idle_exit": FOREVER, "queue_limit": QUEUE}
            ),
            "llamacpp": native.model_copy(update={"slots": slots, "context": context}),
        }
    )


@asynccontextmanager
async def lineup(given: Lineup, folder: Path) -> AsyncGenerator[list[Target]]:
    """All of them, ready: each has loaded its model and answered a request. Raises RemoteError when one does not."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(new_http())
        targets = [await _own(stack, given, http, name, folder / name) for name in given.own]
        targets += [await peer_target(http, one, given.bias) for one in given.peers]
        yield targets


async def _own(stack: AsyncExitStack, given: Lineup, http: httpx2.AsyncClient, name: str, folder: Path) -> Target:
    settings, options = given.settings, dict[str, Any]()
    if given.bias:
        options["logit_bias"] = dict(given.bias)
    if name == UNSHARED and SHARING in LlamaCppSettings.model_fields:
        settings = settings.model_copy(update={"llamacpp": settings.llamacpp.model_copy(update={SHARING: False})})
    elif name == UNSHARED:
        options["cache_prompt"] = False
    home = await stack.enter_async_context(own_engine(settings, folder, given.environ))
    setup = TargetSetup(
        name=name,
        kind="own",
        model=given.model,
        version=gemma_mcp.__version__,
        options=options,
        settings=settings.llamacpp.model_dump(mode="json") | {"device": settings.backend.device},
    )
    target = Target(setup, http, home.url, home.headers, home)
    card = (await target.completion("a b c", 1).run()).card
    if card is None:
        return target
    return dataclasses.replace(target, setup=dataclasses.replace(setup, runtime=card.runtime, device=card.device))
