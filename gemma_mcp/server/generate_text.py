"""The tool `generate_text`: one prompt, one reply."""

from typing import Annotated, Literal

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from gemma_mcp.errors import ContextOverflowError
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
from gemma_mcp.server.overflow import Task, explained_overflow, work_through
from gemma_mcp.server.replies import Reply, TimeBox
from gemma_mcp.server.results import result_of
from gemma_mcp.server.tool import GemmaTool

__all__ = ["generate_text_tool"]

DESCRIPTION = """\
Hand a text job to a Gemma model on the user's own machine: summarise, classify, extract to JSON, rewrite, translate, \
draft a commit message, triage a log.

Use it when a job is mechanical and the input is long: pass `files` (paths, or `path:10-80`) instead of reading them \
yourself, and only the digest enters your context. Use it for private files: nothing leaves the machine. Several calls \
at once are fine; they share the model.

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
    model: ModelName = None
    max_seconds: MaxSeconds = None


def generate_text_tool(caller: Caller, files: TextFiles) -> GemmaTool:
    """The tool."""

    async def generate_text(context: Context, given: GenerateTextArguments) -> CallToolResult:
        box = caller.box(given.max_seconds)
        read = await files.read(given.files or [])
        reply = await _reply(
            caller, context, Task(given.prompt, given.system, read), given.overflow, _options(box, given)
        )
        return result_of(reply, notes=tuple(file.note for file in read if file.note))

    return GemmaTool.make(
        "generate_text", "Generate text", DESCRIPTION, GenerateTextArguments, generate_text, max_result=200_000
    )


async def _reply(caller: Caller, context: Context, task: Task, overflow: str, options: Options) -> Reply:
    if overflow == "chunk" and task.files:
        return await work_through(caller, context, task, options)
    try:
        return await caller.chat(context, task.messages(task.files, task.prompt), options)
    except ContextOverflowError as error:
        raise await explained_overflow(caller, error, task.files, options, chunks=True) from None


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
