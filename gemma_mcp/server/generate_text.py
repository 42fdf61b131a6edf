"""The tool `generate_text`: one prompt, one reply."""

from dataclasses import replace
from typing import Annotated, Literal

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult, ToolAnnotations
from pydantic import Field

from gemma_mcp.errors import ContextOverflowError, InputRefusedError, RequestError
from gemma_mcp.server.arguments import (
    NOT_BLANK,
    Arguments,
    FileList,
    JsonSchema,
    MaxSeconds,
    MaxTokens,
    ModelName,
    SystemText,
)
from gemma_mcp.server.caller import Caller, Options
from gemma_mcp.server.inputs.files import TextFiles
from gemma_mcp.server.output import OutputFile, OutputFolder
from gemma_mcp.server.overflow import Task, explained_overflow, work_through
from gemma_mcp.server.replies import Reply, TimeBox
from gemma_mcp.server.results import result_of
from gemma_mcp.server.samples import Choose, Samples, best_sample
from gemma_mcp.server.tool import ADDS_FILES, READS_ONLY, REPLACES_FILES, GemmaTool

__all__ = ["generate_text_tool"]

DESCRIPTION = """\
Hand a text job to a Gemma model on the user's own machine: summarise, classify, extract to JSON, rewrite, translate, \
draft a commit message, triage a log.

Use it when a job is mechanical and the input is long: pass `files` (paths, `path:10-80`, `src/**/*.py`, `git:diff`) \
instead of reading them yourself, and only the digest enters your context. Use it for private files: nothing leaves \
the machine. Several calls at once are fine; they share the model.

Do not use it for what needs your own judgement, knowledge of recent events or long reasoning: the model is small. Do \
not use it to fill in code at a cursor (complete_code), to look at images (analyze_image) or for a conversation (chat).

The first text of the result is the reply and nothing else; the second is one line that says which model wrote it and \
whether anything was cut."""


class GenerateTextArguments(Arguments):
    """Arguments of `generate_text`."""

    prompt: Annotated[
        str, Field(pattern=NOT_BLANK, description="The task, and the text to work on unless `files` brings it.")
    ]
    system: SystemText = None
    files: FileList = None
    overflow: Annotated[
        Literal["refuse", "chunk"],
        Field(
            description="What to do when `files` do not fit the model's context: 'refuse' says how much is too much; "
            "'chunk' does the task for one piece after another and merges the answers."
        ),
    ] = "refuse"
    max_tokens: MaxTokens = None
    temperature: Annotated[
        float | None,
        Field(ge=0, le=2, allow_inf_nan=False, description="0 is repeatable; the model's own default is livelier."),
    ] = None
    top_p: Annotated[float | None, Field(gt=0, le=1, allow_inf_nan=False, description="Nucleus sampling.")] = None
    top_k: Annotated[int | None, Field(ge=0, le=1_000_000, description="Likeliest tokens kept; 0 keeps all.")] = None
    min_p: Annotated[
        float | None,
        Field(ge=0, le=1, allow_inf_nan=False, description="Drop tokens below this share of the likeliest one's."),
    ] = None
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=1000)]] | None,
        Field(max_length=16, description="Texts that end the reply; they are not part of it."),
    ] = None
    seed: Annotated[int | None, Field(ge=0, le=0xFFFFFFFF, description="Makes sampling repeatable.")] = None
    json_schema: JsonSchema = None
    samples: Annotated[
        int | None,
        Field(
            ge=2,
            le=8,
            description="Answer so many times from one reading of the prompt and give back one answer, by `choose`. "
            "`temperature` is 1 then unless given.",
        ),
    ] = None
    choose: Annotated[
        Choose | None,
        Field(
            description="With `samples`: 'likeliest' (the default) gives the answer that the model was surest of; "
            "'vote' the most frequent one, for short answers and JSON, and says how many agree."
        ),
    ] = None
    model: ModelName = None
    max_seconds: MaxSeconds = None


class AddingArguments(GenerateTextArguments):
    """Arguments where the configuration lets replies go to new files."""

    output: Annotated[
        str | None,
        Field(
            min_length=1,
            description="File below the project folder to write the whole reply to; its folder must exist, and it must "
            "not. The result is then a short digest: use it for what you need not read.",
        ),
    ] = None


class ReplacingArguments(AddingArguments):
    """Arguments where replies may also replace files."""

    overwrite: Annotated[bool, Field(description="Replace the file that `output` names if it exists.")] = False


WRITING: dict[str, tuple[type[GenerateTextArguments], ToolAnnotations]] = {
    "never": (GenerateTextArguments, READS_ONLY),
    "new": (AddingArguments, ADDS_FILES),
    "overwrite": (ReplacingArguments, REPLACES_FILES),
}
"""By `server.write`. Calls of a tool that only reads run at the same time, which is worth more than `output` to most:
so by default the argument is not there, and where it is, the hints say so."""


class GenerateText:
    """One prompt, one reply."""

    def __init__(self, caller: Caller, files: TextFiles) -> None:
        self._caller = caller
        self._files = files
        self._folder = OutputFolder(files.policy)

    async def generate_text(self, context: Context, given: GenerateTextArguments) -> CallToolResult:
        """The body of the tool."""
        samples = _samples(given)
        box = self._caller.box(given.max_seconds)
        output = await self._output(given)
        read = await box.within(self._files.read(given.files or []), "The files were not read yet")
        task = Task(given.prompt, given.system, read)
        reply = await self._reply(context, task, given.overflow, _options(box, given), samples)
        notes = tuple(file.note for file in read if file.note)
        shown = reply if output is None else await _written(reply, output)
        return result_of(shown, notes=notes, read=[file.text for file in read])

    async def _reply(
        self, context: Context, task: Task, overflow: str, options: Options, samples: Samples | None
    ) -> Reply:
        if overflow == "chunk" and task.files:
            return await work_through(self._caller, context, task, options)
        messages = task.messages(task.files)
        try:
            if samples is not None:
                return await best_sample(self._caller, context, messages, options, samples)
            return await self._caller.chat(context, messages, options)
        except ContextOverflowError as error:
            raise await explained_overflow(self._caller, error, task.files, options, chunks=samples is None) from None

    async def _output(self, given: GenerateTextArguments) -> OutputFile | None:
        """The file to write, refused before a model works for nothing."""
        overwrite = isinstance(given, ReplacingArguments) and given.overwrite
        if not isinstance(given, AddingArguments) or given.output is None:
            if overwrite:
                raise RequestError("`overwrite` was given without `output`.", "Say which file to replace.")
            return None
        return await self._folder.file(given.output, overwrite=overwrite)


def generate_text_tool(caller: Caller, files: TextFiles, write: str = "never") -> GemmaTool:
    """The tool; `write` as in the configuration."""
    arguments, annotations = WRITING[write]
    body = GenerateText(caller, files).generate_text
    return GemmaTool.make(
        "generate_text", "Generate text", DESCRIPTION, arguments, body, max_result=200_000, annotations=annotations
    )


async def _written(reply: Reply, output: OutputFile) -> Reply:
    """The digest in place of the reply; the reply itself when it could not be written, so that it is not lost."""
    try:
        digest = await output.write(reply.text, reply.usage.completion_tokens if reply.usage else None)
    except InputRefusedError as error:
        return replace(reply, notes=(*reply.notes, f"not written to a file, so it stands here: {error}"))
    return replace(reply, text=digest)


def _samples(given: GenerateTextArguments) -> Samples | None:
    """Refused where all answers would be equal, or none would be an answer to the whole."""
    if given.samples is None:
        if given.choose is not None:
            raise RequestError("`choose` was given without `samples`.", "Say how many answers to choose from.")
        return None
    if given.temperature == 0 or given.top_k == 1:
        name = "`temperature` 0" if given.temperature == 0 else "`top_k` 1"
        raise RequestError(f"With {name} all `samples` would be equal.", "Raise it, or leave `samples` out.")
    if given.overflow == "chunk":
        raise RequestError("`samples` does not go with `overflow` 'chunk'.", "Give one of them.")
    return Samples(given.samples, given.choose or "likeliest")


def _options(box: TimeBox, given: GenerateTextArguments) -> Options:
    return Options(
        box=box,
        model=given.model,
        max_tokens=given.max_tokens,
        temperature=given.temperature,
        top_p=given.top_p,
        top_k=given.top_k,
        min_p=given.min_p,
        seed=given.seed,
        stop=given.stop,
        json_schema=given.json_schema,
    )
