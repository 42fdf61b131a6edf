"""Input that does not fit the context: refused with the numbers, or worked through in pieces and merged.

Each piece is asked with the whole task, several at once so that the engine computes them together; the model then
merges the answers, in several rounds if need be. The time box holds over all of it.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import anyio
from mcp.server.mcpserver import Context

from gemma_mcp.errors import ContextOverflowError, DeadlineError, FilesOverflowError, GemmaError, RequestError
from gemma_mcp.server.caller import Asker, Caller, Options
from gemma_mcp.server.cuts import Piece, cut_files
from gemma_mcp.server.inputs.files import TextFile, compose
from gemma_mcp.server.progress import Lead, Speaker
from gemma_mcp.server.replies import Reply
from gemma_mcp.wire import ChatMessage, PromptTokensDetails, WireUsage

__all__ = ["RESERVE_TOKENS", "PieceWork", "Task", "explained_overflow", "work_through"]

AT_ONCE = 4
"""Pieces asked at the same time: the slots that an engine has by default."""

RESERVE_TOKENS = 64
"""For the template's turn markers, and for tokens that come out otherwise where texts are joined."""

ANSWER_SHARE = 4
"""An answer to a piece has at most this part of the context, so that two and their merger fit."""

PART = "\n\n(Above is part {number} of {count} of the material. Do the task for this part alone.)"
MERGE = """\
Above are the answers to one task for {count} successive parts of a material that was too long to be read at once. \
Merge them into the one answer for the whole material: keep what they say, name nothing twice, and do not mention \
parts. The task was:

"""


@dataclass(frozen=True)
class Task:
    """What is asked of every piece, and the files that are cut in pieces."""

    prompt: str
    system: str | None
    files: Sequence[TextFile]

    def messages(self, files: Sequence[TextFile], note: str = "") -> list[ChatMessage]:
        """What is asked about some files; `note` says which part of the whole they are."""
        return self.conversation(compose(files, self.prompt + note))

    def mergers(self, answers: Sequence[TextFile]) -> list[ChatMessage]:
        """What is asked to make one answer of several."""
        return self.conversation(compose(answers, MERGE.format(count=len(answers)) + self.prompt))

    def conversation(self, text: str) -> list[ChatMessage]:
        """The user's turn, with the system instruction before it."""
        opening = [ChatMessage(role="system", content=self.system)] if self.system else []
        return [*opening, ChatMessage(role="user", content=text)]


@dataclass(frozen=True)
class Sizes:
    """How the context is shared out, in tokens: what goes into one call, a piece's answer, the final answer."""

    room: int
    answer: int
    final: int


@dataclass(frozen=True)
class Asked:
    """One call of the model: what it is called in progress messages, and what is asked."""

    name: str
    messages: list[ChatMessage]
    options: Options


async def explained_overflow(
    caller: Caller, error: ContextOverflowError, files: Sequence[TextFile], options: Options, *, chunks: bool = False
) -> ContextOverflowError:
    """The refusal with the largest file in it, when there are files. `chunks`: whether the tool can cut them."""
    if not files:
        return error
    try:
        counts = (await caller.count_tokens([file.block for file in files], options)).counts
    except GemmaError:
        return error
    tokens, largest = max(zip(counts, (file.name for file in files), strict=True))
    return FilesOverflowError(error.prompt_tokens, error.max_tokens, error.context_length, largest, tokens, chunks)


async def work_through(caller: Caller, context: Context, task: Task, options: Options) -> Reply:
    """The answer to a task on files of any length. Raises GemmaError; when time is up, what there is is the answer."""
    async with caller.reporting(context) as progress:
        progress.say("counting tokens")
        return await PieceWork(caller, progress, task, options).reply()


class PieceWork:
    """One task on its way through the pieces."""

    def __init__(self, caller: Asker, progress: Speaker, task: Task, options: Options) -> None:
        self._caller = caller
        self._progress = progress
        self._task = task
        self._options = options
        self._replies: list[Reply] = []

    async def reply(self) -> Reply:
        """See `work_through`."""
        sizes = await self._sizes()
        pieces = await cut_files(self._task.files, sizes.room, self._count)
        if len(pieces) < 2:
            whole = replace(self._options, max_tokens=sizes.final)
            return await self._caller.ask(self._progress, self._task.messages(self._task.files), whole)
        answers = await self._ask_pieces(pieces, sizes)
        if any(answer is None or answer.finish_reason == "deadline" for answer in answers):
            return self._unfinished(pieces, answers, "")
        return await self._merged(pieces, [answer for answer in answers if answer is not None], sizes)

    async def _sizes(self) -> Sizes:
        """Raises RequestError when the context is too small for work in pieces."""
        options, task = self._options, self._task
        asked = task.prompt + max(PART, MERGE, key=len)
        counted = await self._caller.count_tokens([asked, task.system or ""], options)
        length, fixed = counted.context_length, sum(counted.counts) + RESERVE_TOKENS
        share = length // ANSWER_SHARE
        final = options.max_tokens or min(self._caller.max_tokens(options), share)
        sizes = Sizes(length - fixed - final, min(final, share), final)
        if sizes.room < 2 * (sizes.answer + RESERVE_TOKENS):
            raise RequestError(
                f"A prompt of {sum(counted.counts):,} tokens without files and {final:,} tokens of reply leave no room "
                f"for work in pieces in a context of {length:,} tokens.",
                "Shorten the prompt or lower max_tokens.",
            )
        return sizes

    async def _count(self, texts: Sequence[str]) -> Sequence[int]:
        return (await self._caller.count_tokens(texts, self._options)).counts

    async def _ask_pieces(self, pieces: Sequence[Piece], sizes: Sizes) -> list[Reply | None]:
        options = replace(self._options, max_tokens=sizes.answer)
        asked: list[Asked] = []
        for number, piece in enumerate(pieces, 1):
            note = PART.format(number=number, count=len(pieces))
            name = f"piece {number} of {len(pieces)}"
            asked.append(Asked(name, self._task.messages(piece.files, note), options))
        return await self._ask_all(asked)

    async def _ask_all(self, asked: Sequence[Asked]) -> list[Reply | None]:
        """The replies in order; None where time was up before there was one. The first other error ends all."""
        replies: list[Reply | None] = [None] * len(asked)

        async def ask(place: int) -> None:
            one = asked[place]
            if one.options.box.elapsed >= one.options.box.seconds:
                return
            try:
                replies[place] = await self._caller.ask(Lead(self._progress, one.name), one.messages, one.options)
            except DeadlineError:
                return

        await _run_few([lambda place=place: ask(place) for place in range(len(asked))])
        self._replies += [reply for reply in replies if reply is not None]
        return replies

    async def _merged(self, pieces: Sequence[Piece], answers: Sequence[Reply], sizes: Sizes) -> Reply:
        """Rounds of mergers until one answer is left."""
        parts = [_part(number, answer.text) for number, answer in enumerate(answers, 1)]
        while len(parts) > 1:
            counts = await self._count([part.block for part in parts])
            groups = _groups(parts, counts, sizes.room)
            if len(groups) == len(parts):
                return self._unfinished(pieces, answers, "their answers are too long to be merged")
            merged = await self._merge_groups([group for group in groups if len(group) > 1], sizes)
            if any(reply is None or reply.finish_reason == "deadline" for reply in merged):
                return self._unfinished(pieces, answers, "")
            texts = (reply.text for reply in merged if reply is not None)
            merges = [next(texts) if len(group) > 1 else group[0].text for group in groups]
            parts = [_part(number, text) for number, text in enumerate(merges, 1)]
        return self._total(self._replies[-1], self._notes(pieces, answers))

    async def _merge_groups(self, groups: Sequence[Sequence[TextFile]], sizes: Sizes) -> list[Reply | None]:
        limit = sizes.final if len(groups) == 1 else sizes.answer
        options = replace(self._options, max_tokens=limit)
        return await self._ask_all([Asked("merging", self._task.mergers(group), options) for group in groups])

    def _unfinished(self, pieces: Sequence[Piece], answers: Sequence[Reply | None], why: str) -> Reply:
        """The answers of the pieces one after another, each under what it is about."""
        told = [(n, piece, answer) for n, (piece, answer) in enumerate(zip(pieces, answers, strict=True), 1) if answer]
        missing = [str(number) for number, answer in enumerate(answers, 1) if answer is None]
        seconds = self._options.box.seconds
        if not told or self._options.json_schema is not None:
            raise DeadlineError(
                f"Of {len(pieces)} pieces {len(told)} were read and none merged "
                + (f"({why})." if why else f"when the {seconds:g} s of this call were over."),
                "Raise max_seconds, or name fewer files or lines of them.",
            )
        text = "\n\n".join(f"[piece {n} of {len(pieces)}: {piece.source}]\n{a.text}" for n, piece, a in told)
        left_out = f"not read: {', '.join(missing)}" if missing else "all read"
        note = f"not merged{': ' + why if why else ''}, the pieces' answers stand one after another ({left_out})"
        last = told[-1][2]
        whole = replace(last, text=text, finish_reason=last.finish_reason if why else "deadline")
        return self._total(whole, (*self._notes(pieces, [a for _, _, a in told]), note))

    def _notes(self, pieces: Sequence[Piece], answers: Sequence[Reply]) -> tuple[str, ...]:
        short = [str(number) for number, answer in enumerate(answers, 1) if answer.finish_reason == "length"]
        cut = (f"answers to {', '.join(short)} cut off at their share of the context",) if short else ()
        return (f"read in {len(pieces)} pieces", *cut)

    def _total(self, last: Reply, notes: tuple[str, ...]) -> Reply:
        """The reply with the tokens of all calls and the time of the whole."""
        usages = [reply.usage for reply in self._replies if reply.usage is not None]
        own = (*notes, *last.notes)
        return replace(last, usage=_sum(usages), timings=None, seconds=self._options.box.elapsed, notes=own)


async def _run_few(calls: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Run all, few at once and in order. The first error that is raised ends the others."""
    limiter = anyio.CapacityLimiter(AT_ONCE)
    failures: list[GemmaError] = []

    async def run(call: Callable[[], Awaitable[None]]) -> None:
        async with limiter:
            try:
                await call()
            except GemmaError as error:
                failures.append(error)
                tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for call in calls:
            tasks.start_soon(run, call)
    if failures:
        raise failures[0]


def _part(number: int, text: str) -> TextFile:
    return TextFile(f"answer {number}", text)


def _groups(parts: Sequence[TextFile], counts: Sequence[int], most_tokens: int) -> list[list[TextFile]]:
    """Neighbours that fit together."""
    groups: list[list[TextFile]] = []
    size = 0
    for part, tokens in zip(parts, counts, strict=True):
        if groups and size + tokens + 1 <= most_tokens:
            groups[-1].append(part)
            size += tokens + 1
        else:
            groups.append([part])
            size = tokens
    return groups


def _sum(usages: Sequence[WireUsage]) -> WireUsage | None:
    if not usages:
        return None
    cached = sum(usage.prompt_tokens_details.cached_tokens for usage in usages if usage.prompt_tokens_details)
    return WireUsage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        total_tokens=sum(usage.total_tokens for usage in usages),
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
    )
