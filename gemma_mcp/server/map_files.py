"""The tool `map_files`: one instruction over many files, the results in a file, a digest back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import anyio.to_thread
from mcp.server.mcpserver import Context
from mcp.types import CallToolResult, ToolAnnotations
from pydantic import Field

from gemma_mcp.errors import RequestError
from gemma_mcp.server.arguments import NOT_BLANK, Arguments, JsonSchema, MaxTokens, ModelName
from gemma_mcp.server.caller import Caller, Options, parse_schema
from gemma_mcp.server.inputs.sources import FileSources
from gemma_mcp.server.maps.bulk import BulkCaller
from gemma_mcp.server.maps.cache import ResultCache
from gemma_mcp.server.maps.digest import digest_of
from gemma_mcp.server.maps.folder import ResultFolder
from gemma_mcp.server.maps.job import Job, ModelMark
from gemma_mcp.server.maps.journal import Journal
from gemma_mcp.server.maps.records import Per
from gemma_mcp.server.maps.survey import Plan, Survey
from gemma_mcp.server.maps.tally import Tally
from gemma_mcp.server.maps.target import Target, find_target
from gemma_mcp.server.maps.work import Work
from gemma_mcp.server.overflow import RESERVE_TOKENS
from gemma_mcp.server.progress import Speaker
from gemma_mcp.server.replies import TimeBox
from gemma_mcp.server.tool import KEEPS_RESULTS, REPLACES_FILES, GemmaTool

__all__ = ["MapFiles", "map_files_tool"]

DESCRIPTION = """\
Do one job for each of many files with a Gemma model on the user's own machine: classify, extract to JSON, summarise, \
tag, check each against a rule.

Use it when the same instruction goes over tens to thousands of files, or over the lines of a *.jsonl or log file \
(`per: "line"`): none of their text enters your context, the shared part of the prompt is computed once, and several \
run at the same time. One call takes them all: pass patterns.

Do not use it for a question about several files together (generate_text with `files`), for a single file, or where \
each file needs your own judgement: the model is small.

Results are written as JSON Lines, one record a line as it comes: path, lines, status (ok, failed, refused), result or \
reason, model, tokens. Back comes a digest: counts, the first results, the most frequent failures, the file's path. \
Read or filter that file for the rest.

When the time is over, or the call was cancelled, what is done is kept: the same call again goes on with what is left \
and tries failed records again. Unchanged files are never computed twice, changed ones are. For many files pass a \
large max_seconds if your client waits that long."""

SMALLEST_CHUNK = 64
"""Tokens."""


class MapFilesArguments(Arguments):
    """Arguments of `map_files`."""

    instruction: Annotated[
        str,
        Field(pattern=NOT_BLANK, description="What to do with each file, and what its answer must look like."),
    ]
    files: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(
            min_length=1,
            description="The files, relative to the project folder: patterns 'src/**/*.py' (without what .gitignore "
            "leaves out), files 'src/app.py', lines 'server.log:1-400', 'git:diff', 'git:show HEAD~1:src/app.py'.",
        ),
    ]
    per: Annotated[
        Per,
        Field(
            description="What a record is: a 'file' (one too long is read in pieces and their answers merged), a "
            "'chunk' of a file, or a 'line' that is not blank."
        ),
    ] = "file"
    chunk_tokens: Annotated[
        int | None,
        Field(
            ge=SMALLEST_CHUNK,
            le=10_000_000,
            description="Most tokens of a chunk, with per: 'chunk'; by default what fits the model's context.",
        ),
    ] = None
    json_schema: JsonSchema = None
    max_tokens: MaxTokens = None
    temperature: Annotated[
        float | None,
        Field(
            ge=0,
            le=2,
            allow_inf_nan=False,
            description="0, the default, is repeatable, so that results of earlier calls can be taken over. Above it "
            "they are only with a `seed`.",
        ),
    ] = None
    seed: Annotated[int | None, Field(ge=0, le=0xFFFFFFFF, description="Makes sampling repeatable.")] = None
    model: ModelName = None
    max_seconds: Annotated[
        float | None,
        Field(
            gt=0,
            le=86_400,
            allow_inf_nan=False,
            description="Seconds after which the digest of what is done is given back. The default, 50, is less than "
            "the 60 after which many clients give up; the same call again goes on.",
        ),
    ] = None


class AddingArguments(MapFilesArguments):
    """Arguments where the configuration lets results go to new files in the project."""

    output: Annotated[
        str | None,
        Field(
            min_length=1,
            description="File (*.jsonl) or existing folder below the project folder for the results, instead of the "
            "user's own data folder. A file with results of the same job is gone on with; any other must not exist.",
        ),
    ] = None


class ReplacingArguments(AddingArguments):
    """Arguments where results may also replace files."""

    overwrite: Annotated[bool, Field(description="Replace the file that `output` names, whatever is in it.")] = False


WRITING: dict[str, tuple[type[MapFilesArguments], ToolAnnotations]] = {
    "never": (MapFilesArguments, KEEPS_RESULTS),
    "new": (AddingArguments, KEEPS_RESULTS),
    "overwrite": (ReplacingArguments, REPLACES_FILES),
}
"""By `server.write`. The tool always adds a file, if only to the user's own data folder, so it never says that it
reads only. Clients then run its calls one after the other, which costs nothing: one call keeps the engine busy.
"""


@dataclass(frozen=True)
class MapFiles:
    """One instruction over many files. `identify` says which model a name means just now; it blocks."""

    caller: Caller
    bulk: BulkCaller
    files: FileSources
    folder: ResultFolder
    cache: ResultCache
    identify: Callable[[str], ModelMark]
    max_records: int

    async def map_files(self, context: Context, given: MapFilesArguments) -> CallToolResult:
        """The body of the tool."""
        box = self.caller.box(given.max_seconds)
        job = await self._job(given, box)
        target = await self._target(given, job)
        async with self.caller.reporting(context) as progress:
            progress.say(f"looking for earlier results in {target.path.name}")
            async with self.folder.turn(target.path, box):
                journal = Journal(target.path, job.id, private=target.private, shown=target.shown)
                try:
                    return await self._worked(given, job, target, journal, progress)
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.to_thread.run_sync(journal.close)

    async def _worked(
        self, given: MapFilesArguments, job: Job, target: Target, journal: Journal, progress: Speaker
    ) -> CallToolResult:
        await anyio.to_thread.run_sync(partial(journal.read, afresh=target.afresh))
        survey = Survey(self.files, job, self.max_records, partial(self._room, job), partial(self._count, job.options))
        plan = await job.options.box.within(survey.look(given.files, progress), "The files were not looked at yet")
        work = Work(job, self.bulk, survey, journal, self.cache, Tally(job.per, progress))
        await work.run(plan)
        return await self._result(job, target, journal, plan, work)

    async def _result(self, job: Job, target: Target, journal: Journal, plan: Plan, work: Work) -> CallToolResult:
        if work.late is not None and not work.tally.done + work.tally.failed:
            raise work.late
        result = await anyio.to_thread.run_sync(digest_of, job, target, journal, plan, work)
        if not work.tally.left:
            await work.finish()
        await anyio.to_thread.run_sync(self.folder.prune, target.path)
        return result

    async def _job(self, given: MapFilesArguments, box: TimeBox) -> Job:
        if given.chunk_tokens is not None and given.per != "chunk":
            raise RequestError("`chunk_tokens` was given without `per`: 'chunk'.", "Leave it out, or ask for chunks.")
        schema = _checked_schema(given.json_schema)
        options = Options(
            box=box,
            model=given.model,
            max_tokens=given.max_tokens,
            temperature=given.temperature or 0.0,
            seed=given.seed,
            json_schema=schema,
            priority="bulk",
        )
        most = self.caller.max_tokens(options)
        mark = await anyio.to_thread.run_sync(self.identify, self.caller.model(options))
        return Job(given.instruction, options, schema, given.per, given.chunk_tokens, most, mark)

    async def _target(self, given: MapFilesArguments, job: Job) -> Target:
        output = given.output if isinstance(given, AddingArguments) else None
        overwrite = isinstance(given, ReplacingArguments) and given.overwrite
        if overwrite and output is None:
            raise RequestError("`overwrite` was given without `output`.", "Say which file to replace.")
        policy = self.files.files.policy
        return await anyio.to_thread.run_sync(
            partial(find_target, self.folder, policy, job, given.files, output, overwrite=overwrite)
        )

    async def _count(self, options: Options, texts: Sequence[str]) -> Sequence[int]:
        return (await self.bulk.count_tokens(texts, options)).counts

    async def _room(self, job: Job) -> int:
        """The most tokens of a chunk. Raises RequestError when the context is too small for one."""
        counted = await self.bulk.count_tokens([job.instruction], job.options)
        room = counted.context_length - counted.counts[0] - RESERVE_TOKENS - job.max_tokens
        if room < SMALLEST_CHUNK or (job.chunk_tokens or 0) > room:
            raise RequestError(
                f"With an instruction of {counted.counts[0]:,} tokens and {job.max_tokens:,} of reply the context "
                f"of {counted.context_length:,} has room for chunks of {max(0, room):,} tokens.",
                "Lower chunk_tokens or max_tokens, or shorten the instruction.",
            )
        return job.chunk_tokens or room


def map_files_tool(tool: MapFiles, write: str = "never") -> GemmaTool:
    """The tool; `write` as in the configuration."""
    arguments, annotations = WRITING[write]
    return GemmaTool.make("map_files", "Map files", DESCRIPTION, arguments, tool.map_files, annotations=annotations)


def _checked_schema(given: dict[str, Any] | str | None) -> dict[str, Any] | None:
    """Raises RequestError once, rather than for every record."""
    if given is None:
        return None
    from gemma_mcp.schemas import check_schema

    schema = parse_schema(given)
    check_schema(schema)
    return schema
