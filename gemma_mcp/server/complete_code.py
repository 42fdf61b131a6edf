"""The tool `complete_code`: what goes in at a cursor, and nothing else."""

from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Annotated

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from gemma_mcp.chat.instruct_code import instruct_messages, only_the_insertion
from gemma_mcp.chat.messages import Message
from gemma_mcp.errors import ContextOverflowError, InvalidReplyError, RequestError, UnsupportedError
from gemma_mcp.server.arguments import Arguments, MaxSeconds, MaxTokens, ModelName
from gemma_mcp.server.caller import Caller, Options
from gemma_mcp.server.inputs.files import TextFiles
from gemma_mcp.server.insertion import LineEnds, is_prose, split_at, to_lf, without_tail
from gemma_mcp.server.replies import Reply
from gemma_mcp.server.results import result_of
from gemma_mcp.server.tool import GemmaTool
from gemma_mcp.types import Text
from gemma_mcp.wire import ChatMessage

__all__ = ["complete_code_tool"]

DESCRIPTION = """\
Let a Gemma model on the user's own machine fill in code at a cursor: the body of a function, the rest of a line, a \
boilerplate block.

Use it with `file`, `line` and `column` (the file is read here, unsaved changes are not seen), or with `prefix` and \
`suffix`, the text before and after the cursor. Models trained for it fill in the middle; others are instructed and \
their reply is checked.

Do not use it to write a program from a description, to explain or to review code (generate_text), or where the answer \
depends on other files: it sees this one only.

The first text of the result is exactly what to insert at the cursor: no fences, no prose, nothing that stands there \
already, indentation and line ends kept. The second is one line that says which model wrote it."""

DEFAULT_TOKENS = 256
"""Completion tokens when the call names none: some 20 lines of code."""

PREFIX_SHARE = 0.75
"""Of what fits a context, how much is kept before the cursor; the code before it says more than the code after."""

SHRINK = 0.9
"""Code is not equally many tokens everywhere, so less is kept than the average allows."""

ATTEMPTS = 3
"""How often a text that is too long for the context is cut before giving up."""

LANGUAGES = {
    ".c": "c", ".cc": "cpp", ".cpp": "cpp", ".cs": "csharp", ".css": "css", ".go": "go", ".h": "c", ".hpp": "cpp",
    ".html": "html", ".java": "java", ".js": "javascript", ".json": "json", ".kt": "kotlin", ".lua": "lua",
    ".php": "php", ".py": "python", ".rb": "ruby", ".rs": "rust", ".sh": "bash", ".sql": "sql", ".swift": "swift",
    ".toml": "toml", ".ts": "typescript", ".tsx": "tsx", ".yaml": "yaml", ".yml": "yaml",
}  # fmt: skip


class CompleteCodeArguments(Arguments):
    """Arguments of `complete_code`."""

    prefix: Annotated[str | None, Field(description="Text before the cursor.")] = None
    suffix: Annotated[str | None, Field(description="Text after the cursor.")] = None
    file: Annotated[
        str | None,
        Field(min_length=1, description="File in the project folder to complete, instead of prefix and suffix."),
    ] = None
    line: Annotated[
        int | None, Field(ge=1, le=1_000_000_000, description="Line of the cursor in `file`, counted from 1.")
    ] = None
    column: Annotated[
        int | None,
        Field(
            ge=1,
            le=1_000_000_000,
            description="Column of the cursor, counted in characters from 1: 1 stands before the first. Without it the "
            "cursor stands at the end of the line.",
        ),
    ] = None
    language: Annotated[
        str | None,
        Field(pattern=r"^[\w+#. -]+$", max_length=40, description="Such as 'python'. A file's name tells, too."),
    ] = None
    max_tokens: MaxTokens = None
    model: ModelName = None
    max_seconds: MaxSeconds = None


@dataclass(frozen=True)
class Gap:
    """Where code is missing: the text around the cursor with LF line ends, and how the caller's lines end."""

    prefix: str
    suffix: str
    language: str
    ends: LineEnds
    notes: tuple[str, ...] = ()
    source_note: str = ""

    @classmethod
    def between(cls, prefix: str, suffix: str, language: str) -> "Gap":
        """The gap between two texts."""
        return cls(to_lf(prefix), to_lf(suffix), language, LineEnds.of(prefix + suffix))

    def shortened(self, error: ContextOverflowError) -> "Gap":
        """The lines nearest to the cursor that fit; `notes` say what was left out."""
        room = max(0, error.context_length - error.max_tokens) / max(1, error.prompt_tokens)
        keep = int((len(self.prefix) + len(self.suffix)) * room * SHRINK)
        before = max(int(keep * PREFIX_SHARE), keep - len(self.suffix))
        prefix = self.prefix[-before:] if before else ""
        prefix = prefix[prefix.find("\n") + 1 :] if len(prefix) < len(self.prefix) else prefix
        after = self.suffix[: max(0, keep - before)]
        suffix = after[: after.rfind("\n") + 1] if len(after) < len(self.suffix) else after
        note = f"only {prefix.count(chr(10)) + 1} lines before and {suffix.count(chr(10))} after the cursor were read"
        return replace(self, prefix=prefix, suffix=suffix, notes=(note,))


class CompleteCode:
    """Fills gaps, and remembers which models cannot do so without being instructed."""

    def __init__(self, caller: Caller, files: TextFiles) -> None:
        self._caller = caller
        self._files = files
        self._without_fim: set[str] = set()

    async def complete_code(self, context: Context, given: CompleteCodeArguments) -> CallToolResult:
        """The body of the tool."""
        options = Options(
            box=self._caller.box(given.max_seconds),
            model=given.model,
            max_tokens=given.max_tokens or DEFAULT_TOKENS,
            temperature=0.0,
        )
        gap = await self._gap(given)
        reply, gap = await self._fill_what_fits(context, gap, options)
        reply = replace(reply, text=gap.ends.restore(reply.text))
        read = [gap.prefix + gap.suffix] if given.file else []  # the same text wherever the cursor stands
        return result_of(reply, notes=(gap.source_note, *gap.notes), read=read)

    async def _gap(self, given: CompleteCodeArguments) -> Gap:
        if given.file is None:
            return _gap_of_texts(given)
        if given.prefix is not None or given.suffix is not None:
            raise RequestError("`file` was given together with `prefix` or `suffix`.", "Give one or the other.")
        if given.line is None:
            raise RequestError("`file` was given without `line`.", "Say where the cursor stands.")
        read = await self._files.read_text(given.file)
        prefix, suffix = split_at(given.file, read.text, given.line, given.column)
        language = given.language or LANGUAGES.get(PurePosixPath(read.name).suffix.lower(), "")
        return _unless_empty(replace(Gap.between(prefix, suffix, language), source_note=read.note))

    async def _fill_what_fits(self, context: Context, gap: Gap, options: Options) -> tuple[Reply, Gap]:
        for _ in range(ATTEMPTS - 1):
            try:
                return await self._fill(context, gap, options), gap
            except ContextOverflowError as error:
                gap = _unless_empty(gap.shortened(error), error)
        return await self._fill(context, gap, options), gap

    async def _fill(self, context: Context, gap: Gap, options: Options) -> Reply:
        model = self._caller.model(options)
        if model not in self._without_fim:
            try:
                return await self._fill_in_the_middle(context, gap, options)
            except UnsupportedError:
                self._without_fim.add(model)
        return await self._fill_as_instructed(context, gap, options)

    async def _fill_in_the_middle(self, context: Context, gap: Gap, options: Options) -> Reply:
        reply = await self._caller.insert(context, gap.prefix, gap.suffix, options)
        return replace(reply, text=without_tail(to_lf(reply.text), gap.suffix))

    async def _fill_as_instructed(self, context: Context, gap: Gap, options: Options) -> Reply:
        told = instruct_messages(gap.prefix, gap.suffix, gap.language or None)
        reply = await self._caller.chat(context, [_on_the_wire(message) for message in told], options)
        text = to_lf(reply.text)
        code = "" if is_prose(text) else without_tail(only_the_insertion(text, gap.prefix, gap.suffix), gap.suffix)
        if not code.strip():
            raise InvalidReplyError(
                "The model explained or repeated instead of writing what is missing.",
                "Name a model that was trained for fill-in-the-middle, or ask generate_text.",
            )
        return replace(reply, text=code, notes=(*reply.notes, "instructed, not filled in the middle"))


def _on_the_wire(message: Message) -> ChatMessage:
    return ChatMessage(
        role=message.role, content="".join(part.text for part in message.parts if isinstance(part, Text))
    )


def _gap_of_texts(given: CompleteCodeArguments) -> Gap:
    if given.line is not None or given.column is not None:
        raise RequestError("`line` and `column` were given without `file`.", "They say where in a file the cursor is.")
    return _unless_empty(Gap.between(given.prefix or "", given.suffix or "", given.language or ""))


def _unless_empty(gap: Gap, error: ContextOverflowError | None = None) -> Gap:
    if gap.prefix.strip() or gap.suffix.strip():
        return gap
    if error is not None:
        raise error
    raise RequestError("There is nothing to complete.", "Give `prefix` or `suffix`, or `file` and `line`.")


def complete_code_tool(caller: Caller, files: TextFiles) -> GemmaTool:
    """The tool."""
    body = CompleteCode(caller, files).complete_code
    return GemmaTool.make("complete_code", "Complete code", DESCRIPTION, CompleteCodeArguments, body)
