"""The tool `generate_text`: one prompt, one reply."""

from typing import Annotated

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

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
from gemma_mcp.server.files import TextFiles, compose
from gemma_mcp.server.replies import TimeBox
from gemma_mcp.server.results import result_of
from gemma_mcp.server.tool import GemmaTool
from gemma_mcp.wire import ChatMessage

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
        messages = [ChatMessage(role="user", content=compose(read, given.prompt))]
        if given.system:
            messages.insert(0, ChatMessage(role="system", content=given.system))
        reply = await caller.chat(context, messages, _options(box, given))
        notes = tuple(file.note for file in read if file.note)
        return result_of(reply, notes=notes, read=[file.text for file in read])

    return GemmaTool.make(
        "generate_text", "Generate text", DESCRIPTION, GenerateTextArguments, generate_text, max_result=200_000
    )


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
