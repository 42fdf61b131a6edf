"""The tool `analyze_image`: a question about one or several images."""

from typing import Annotated

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from gemma_mcp.server.arguments import (
    NOT_BLANK,
    Arguments,
    Detail,
    ImageList,
    JsonSchema,
    MaxSeconds,
    MaxTokens,
    ModelName,
)
from gemma_mcp.server.caller import Caller, Options
from gemma_mcp.server.inputs.images import LONGEST_SIDE, Images
from gemma_mcp.server.replies import TimeBox
from gemma_mcp.server.results import result_of
from gemma_mcp.server.tool import GemmaTool
from gemma_mcp.server.turn_messages import image_parts
from gemma_mcp.wire import ChatMessage, TextPart

__all__ = ["analyze_image_tool"]

DESCRIPTION = """\
Let a Gemma model on the user's own machine look at images: describe a screenshot, read the text in it, compare \
pictures, answer a question, extract fields to JSON.

Use it when an image lies on disk and a sentence about it is enough: the pixels never enter your context and never \
leave the machine. Several images go into one question in the order given.

Do not use it for what an image you already see tells you, for exact measuring or counting of many things, or for \
medical and legal judgements: the model is small and can be wrong with confidence.

The reply is as repeatable as the model allows (temperature 0). The first text of the result is the answer and nothing \
else; the second is one line that says which model wrote it and whether anything was cut or scaled down."""

DEFAULT_QUESTION = "Describe this image."


class AnalyzeImageArguments(Arguments):
    """Arguments of `analyze_image`."""

    images: Annotated[
        ImageList,
        Field(
            min_length=1,
            description="Paths in the project folder, patterns such as 'shots/*.png', data URIs or base64: PNG, JPEG, "
            "WebP, GIF (first frame), BMP, TIFF.",
        ),
    ]
    question: Annotated[
        str, Field(pattern=NOT_BLANK, description="What to find out; without it the images are described.")
    ] = DEFAULT_QUESTION
    detail: Annotated[
        Detail,
        Field(
            description="Pixels kept of the longest side: "
            + ", ".join(f"{name} {pixels}" for name, pixels in LONGEST_SIDE.items())
            + ". More helps with small print and costs time."
        ),
    ] = "auto"
    json_schema: JsonSchema = None
    model: ModelName = None
    max_tokens: MaxTokens = None
    max_seconds: MaxSeconds = None


def analyze_image_tool(caller: Caller, images: Images) -> GemmaTool:
    """The tool."""

    async def analyze_image(context: Context, given: AnalyzeImageArguments) -> CallToolResult:
        box = caller.box(given.max_seconds)
        read = await box.within(images.read(given.images, given.detail), "The images were not read yet")
        content = (*image_parts(read, given.detail), TextPart(text=given.question))
        reply = await caller.chat(context, [ChatMessage(role="user", content=content)], _options(box, given))
        return result_of(reply, notes=tuple(image.note for image in read if image.note))

    return GemmaTool.make("analyze_image", "Analyze images", DESCRIPTION, AnalyzeImageArguments, analyze_image)


def _options(box: TimeBox, given: AnalyzeImageArguments) -> Options:
    return Options(
        box=box,
        model=given.model,
        max_tokens=given.max_tokens,
        temperature=0.0,
        json_schema=given.json_schema,
    )
