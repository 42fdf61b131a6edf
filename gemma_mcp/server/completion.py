"""`completion/complete`: what an argument of a prompt or a variable of a resource's address could be.

Each argument's name has a source of values; a source is asked with what was typed so far. Values come back in its
order, at most 100 of them, with the number of all.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import anyio.to_thread
from mcp.types import Completion, CompletionArgument, CompletionContext, PromptReference, ResourceTemplateReference

from gemma_mcp.models.inventory import Inventory
from gemma_mcp.server.inputs.paths import PathPolicy

__all__ = ["Completions", "Source", "model_names", "one_of", "path_names"]

Source = Callable[[str], Awaitable[Sequence[str]]]
"""All values that go on from what was typed."""

MOST_VALUES = 100
"""Of one answer, by the protocol."""

MOST_FILES = 10_000
"""Entries of one folder that are looked at."""


class Completions:
    """The sources by the name of the argument or variable that they complete."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = dict(sources)

    def add(self, name: str, source: Source) -> None:
        """One more source, or another one for that name."""
        self._sources[name] = source

    async def complete(
        self,
        reference: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        """The answer to a request; no values for an argument that can be anything."""
        source = self._sources.get(argument.name)
        values = list(dict.fromkeys(await source(argument.value))) if source else []
        return Completion(values=values[:MOST_VALUES], total=len(values), has_more=len(values) > MOST_VALUES)


def one_of(*values: str) -> Source:
    """Values that are always the same."""

    async def source(typed: str) -> Sequence[str]:
        return _going_on(values, typed)

    return source


def model_names(inventory: Inventory) -> Source:
    """The models that can be asked for."""

    async def source(typed: str) -> Sequence[str]:
        return _going_on(await anyio.to_thread.run_sync(inventory.names), typed)

    return source


def path_names(policy: PathPolicy, *others: str) -> Source:
    """Files and folders that may be read, and `others`. Of several paths separated by commas the last is completed."""

    async def source(typed: str) -> Sequence[str]:
        before, comma, last = typed.rpartition(",")
        paths = await anyio.to_thread.run_sync(lambda: sorted(_paths(policy, last)))
        return [f"{before}{comma}{path}" for path in (*_going_on(others, last), *paths)]

    return source


def _going_on(values: Sequence[str], typed: str) -> list[str]:
    return [value for value in values if value.lower().startswith(typed.lower())]


def _paths(policy: PathPolicy, typed: str) -> Iterator[str]:
    """Names in the folder that is being typed; hidden ones only after a dot. What may not be read is not named."""
    folder, slash, start = typed.rpartition("/")
    if slash and not policy.exists(folder or "/"):
        return
    try:
        entries = list(islice((policy.root / folder).iterdir(), MOST_FILES))
    except (OSError, ValueError):
        return
    for entry in entries:
        if entry.name.startswith(start) and (start or not _is_hidden(entry)):
            path = f"{folder}{slash}{entry.name}"
            if policy.exists(path):
                yield f"{path}/" if entry.is_dir() else path


def _is_hidden(entry: Path) -> bool:
    return entry.name.startswith(".")
