"""Calls of `map_files` on an engine that answers by what it is asked, and what came of them."""

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from mcp import Client
from mcp.types import CallToolResult
from scripted_engine import ScriptedEngines, Step, error_of, finished, home_of, said, settings, texts

from gemma_mcp.places import Places
from gemma_mcp.server.app import build_server
from gemma_mcp.wire import ChatCompletion, ChatCompletionRequest, GenerationOptions

INSTRUCTION = "Name the subject."

Answer = Callable[[str, str], Sequence[Step] | Step | str]
"""By the path (and lines) of the file, and its text."""

BLOCK = re.compile(r'<file path="(?P<path>[^"]*)"(?: lines="(?P<lines>[^"]*)")?>\n(?P<text>.*)\n</file>', re.DOTALL)


class MapEngines(ScriptedEngines):
    """Answers with the text of the file, upside down in its case; a token is a character, 8,192 of them fit."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: Answer = lambda name, text: text.swapcase()
        self.prompts: list[str] = []
        self.names: list[str] = []
        self.most_busy = 0

    @asynccontextmanager
    async def _stream(self, request: GenerationOptions) -> AsyncGenerator[AsyncIterator[ChatCompletion]]:
        assert isinstance(request, ChatCompletionRequest)
        prompt = request.messages[-1].content
        assert isinstance(prompt, str)
        self.prompts.append(prompt)
        self.most_busy = max(self.most_busy, self.busy + 1)
        self.play(self._script(prompt))
        async with super()._stream(request) as chunks:
            yield chunks

    def _script(self, prompt: str) -> Sequence[Step]:
        block = BLOCK.search(prompt)
        assert block is not None, prompt
        name = block["path"] + (f":{block['lines']}" if block["lines"] else "")
        self.names.append(name)
        answer = self.answer(name, block["text"])
        if isinstance(answer, str):
            return [said(answer), finished()]
        return answer if isinstance(answer, Sequence) else [answer]

    def forget(self) -> None:
        """Count from here."""
        self.prompts.clear()
        self.names.clear()


class Mapper:
    """A user with a project. Every call comes from a server of its own, as after a restart."""

    def __init__(self, engines: MapEngines, project: Path) -> None:
        self.engines = engines
        self.project = project
        self.given: dict[str, Any] = {"progress_interval": 0.1}
        self.map_given: dict[str, Any] = {}

    @property
    def places(self) -> Places:
        return home_of(self.project)

    def client(self, **options: Any) -> Client:
        """A client of a new server."""
        configured = settings(**self.given)
        limits = configured.map.model_copy(update=self.map_given)
        configured = configured.model_copy(update={"map": limits})
        return Client(build_server(self.engines, configured, self.project, self.places), **options)

    async def call(self, *files: str, told: Any = None, **arguments: Any) -> CallToolResult:
        """The result of one call."""
        given = {"instruction": INSTRUCTION, "files": list(files) or ["*.txt"]} | arguments
        async with self.client() as client:
            return await client.call_tool("map_files", given, progress_callback=told)

    async def digest(self, *files: str, **arguments: Any) -> str:
        """The first text of a result that is none of an error."""
        result = await self.call(*files, **arguments)
        assert not result.is_error, result.content
        return texts(result)[0]

    async def error(self, *files: str, **arguments: Any) -> str:
        """The text of a result that is an error."""
        return error_of(await self.call(*files, **arguments))

    async def cancelled(self, when: anyio.Event, *files: str, **arguments: Any) -> None:
        """A call that is taken back when the event comes."""
        async with self.client() as client, anyio.create_task_group() as tasks:
            given = {"instruction": INSTRUCTION, "files": list(files) or ["*.txt"]} | arguments
            tasks.start_soon(client.call_tool, "map_files", given)
            with anyio.fail_after(30):
                await when.wait()
            tasks.cancel_scope.cancel()

    def results(self) -> list[Path]:
        """The files of results in the user's own folder."""
        return sorted((self.places.maps / "results").glob("*.jsonl"))

    def rows(self, path: Path | None = None) -> list[dict[str, Any]]:
        """The rows of a file of results, by default of the only one; each is one whole line."""
        if path is None:
            (path,) = self.results()
        text = path.read_text(encoding="utf-8")
        assert text.endswith("\n")
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def by_path(self, path: Path | None = None) -> dict[str, Any]:
        """The result of each path (and lines); the last row counts."""
        return {
            row["path"] + (f":{row['lines']}" if row.get("lines") else ""): row.get("result", row["status"])
            for row in self.rows(path)
        }


def names_in(folder: Path) -> list[str]:
    """What is in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def numbered(count: int) -> dict[str, str]:
    """So many small files that differ."""
    return {f"f{number:02}.txt": f"subject {number}\n" for number in range(1, count + 1)}
