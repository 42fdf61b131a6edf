"""One request on its way through the scheduler: its tokens, its place in the cache, the events it sends."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from gemma_mcp.engine.backend import MediaPiece, Piece, Sampled, SlotOptions
from gemma_mcp.engine.mailbox import Mailbox
from gemma_mcp.engine.speculation import Guesser
from gemma_mcp.engine.text import TextAssembler
from gemma_mcp.errors import GemmaError, RequestError
from gemma_mcp.types import (
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    Prefill,
    Timings,
    TokenLogprob,
    Usage,
)

__all__ = ["Job", "MediaSpan", "Prompt"]


@dataclass(frozen=True)
class MediaSpan:
    """Where an image stands in a prompt: its first position, its length in positions, the worker's handle."""

    start: int
    length: int
    media: int


@dataclass(frozen=True)
class Prompt:
    """An encoded prompt, one id per position. An image's positions all hold one negative number, made from its content,
    so that two prompts share a prefix exactly where their ids agree.
    """

    ids: tuple[int, ...]
    spans: tuple[MediaSpan, ...] = ()

    @classmethod
    def assemble(cls, pieces: Sequence[Piece]) -> "Prompt":
        """From what a worker's `encode` gave. Raises RequestError for a prompt that is empty or ends in an image."""
        ids: list[int] = []
        spans: list[MediaSpan] = []
        for piece in pieces:
            if isinstance(piece, MediaPiece):
                spans.append(MediaSpan(len(ids), piece.positions, piece.media))
                ids += [-1 - int(piece.digest[:15], 16)] * piece.positions
            else:
                ids += piece.ids
        if not ids or ids[-1] < 0:
            raise RequestError("The prompt has no text to continue.", "Put some text after the last image.")
        return cls(tuple(ids), tuple(spans))


class Job:
    """A request that was accepted. `submitted`: when, by the monotonic clock, in seconds."""

    def __init__(self, request: GenerationRequest, prompt: Prompt, context_length: int, submitted: float) -> None:
        self.request = request
        self.prompt = prompt
        self.tokens = list(prompt.ids)
        room = context_length - len(prompt.ids)
        self.limit = len(prompt.ids) + min(room, request.max_tokens or room)
        self.slot: int | None = None
        self.position = 0
        """Tokens that stand in the KV cache."""
        self.cached_tokens = 0
        self.trimming = False
        """Whether a trim or a fork must say first how much its slot holds."""
        self.leader: Job | None = None
        """Whom it follows, up to `branch` tokens; see placement."""
        self.branch = 0
        self._stops: set[int] = set()
        self._told = 0
        self.prepared_by: object = None
        """The worker that holds its images."""
        self.settled = False
        """Whether it is known how much of its prompt was cached already."""
        self.place = 0
        self.finished = False
        self.probation = 0
        """A worker died on this job when it had so many tokens: it runs alone until it has more."""
        self.strikes = 0
        self.passed = 0
        """How often a job that came later went before it."""
        self.preempted = 0
        """How often it gave its slot up."""
        self._assembler = TextAssembler(request.stop)
        self._taken: list[bytes] = []
        """What was taken since text was last posted."""
        self._unsent_tokens = 0
        self._unsent_logprobs: list[TokenLogprob] = []
        self._covered_bytes = 0
        """Of the text that was sent, those that belong to tokens whose log-probabilities were not."""
        self.guesser = Guesser()
        self.events: Mailbox[Event] = Mailbox()
        self._submitted = submitted
        self._admitted: float | None = None
        self._first: float | None = None
        self._decoding: float | None = None

    @property
    def decoding(self) -> bool:
        """Whether only its newest token is missing from the KV cache."""
        return self.position == len(self.tokens) - 1

    @property
    def ready(self) -> bool:
        """Whether the next step can compute for it."""
        return not (self.trimming or self.leader or self.finished)

    @property
    def bulk(self) -> bool:
        """Whether it may wait for those that people wait for."""
        return self.request.priority == "bulk"

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - len(self.prompt.ids)

    @property
    def options(self) -> SlotOptions:
        """How its slot samples; what it generated already is replayed through the sampler."""
        history = tuple(self.tokens[len(self.prompt.ids) :])
        return SlotOptions(
            sampling=self.request.sampling,
            grammar=self.request.grammar,
            logprobs=self.request.logprobs,
            history=history,
        )

    def admit(self, slot: int, position: int) -> None:
        """It has a slot, with so much of its prompt in the cache."""
        self.slot, self.position = slot, position
        self._admitted = self._admitted or time.monotonic()

    def lose_cache(self) -> None:
        """Its slot is gone with the worker; everything is computed again."""
        self.slot, self.position, self.trimming = None, 0, False
        self.leader, self._stops = None, set()

    def follow(self, leader: "Job", branch: int) -> None:
        """Wait until the leader has computed so many tokens; it stops there."""
        self.leader, self.branch = leader, branch
        leader.stop_at(branch)

    def stop_at(self, position: int) -> None:
        """Let a step end its prompt there, for a fork or a checkpoint."""
        self._stops.add(position)

    def arrived(self) -> bool:
        """Whether it stands where it was to stop; asked once."""
        if self.position not in self._stops:
            return False
        self._stops.discard(self.position)
        return True

    def next_stop(self) -> int:
        """Where the next piece of its prompt ends at the latest."""
        span = self.next_span()
        end = len(self.tokens) if span is None else span.start
        return min((stop for stop in self._stops if self.position < stop < end), default=end)

    def next_span(self) -> MediaSpan | None:
        """The image at its position or after it."""
        return next((span for span in self.prompt.spans if span.start >= self.position), None)

    def post(self, event: Event) -> None:
        """Send an event; after the end it goes nowhere."""
        self.events.put(event)

    def post_prefill(self) -> None:
        """Say how much of the prompt is computed."""
        done = min(self.position, len(self.prompt.ids))
        self.post(Prefill(done, len(self.prompt.ids), self.cached_tokens))

    def post_following(self) -> None:
        """Say how far the leader has come with what both need."""
        if self.leader is None:
            return
        done = min(self.leader.position, self.branch, len(self.prompt.ids))
        if done > self._told:
            self._told = done
            self.post(Prefill(done, len(self.prompt.ids), 0))

    def take(self, sampled: Sampled) -> FinishReason | None:
        """A token was chosen. Says why the reply is over, if it is; else its text waits for `post_taken`."""
        if self._decoding is None:
            self._decoding = time.monotonic()
        if sampled.end:
            return "stop"
        self.tokens.append(sampled.token)
        self._taken.append(sampled.piece)
        if sampled.logprob is not None:
            self._unsent_logprobs.append(sampled.logprob)
        if self.request.stop:
            self.post_taken()
            if self._assembler.stopped:
                self._unsent_logprobs.clear()  # those of the stop string
                return "stop"
        return "length" if len(self.tokens) >= self.limit else None

    def post_taken(self) -> None:
        """Send the text of what was taken, as far as it is certain."""
        if self._taken:
            self._unsent_tokens += len(self._taken)
            taken, self._taken = b"".join(self._taken), []
            self._post_text(self._assembler.push(taken))

    def _post_text(self, text: str) -> None:
        if text and self._first is None:
            self._first = time.monotonic()
        logprobs = self._certain_logprobs(text) if self._unsent_logprobs else ()
        if text or logprobs:
            self.post(Delta(text, self._unsent_tokens, logprobs))
            self._unsent_tokens = 0

    def _certain_logprobs(self, text: str) -> tuple[TokenLogprob, ...]:
        """Those of the tokens that `text` makes certain: they spell a stop string as clearly as text does."""
        count = len(self._unsent_logprobs)
        if self._assembler.holding or self._assembler.stopped:
            count = self._count_covered(text)
        else:
            self._covered_bytes = 0
        certain = tuple(self._unsent_logprobs[:count])
        del self._unsent_logprobs[:count]
        return certain

    def _count_covered(self, text: str) -> int:
        """How many tokens the text so far holds as a whole; where bytes were no UTF-8, rather too few."""
        self._covered_bytes += len(text.replace("\ufffd", "?").encode())
        for count, one in enumerate(self._unsent_logprobs):
            if len(one.piece) > self._covered_bytes:
                return count
            self._covered_bytes -= len(one.piece)
        return len(self._unsent_logprobs)

    def finish(self, reason: FinishReason) -> None:
        """End the reply, giving out what was held back."""
        self.post_taken()
        self._post_text(self._assembler.flush())
        if self._unsent_tokens:
            self.post(Delta("", self._unsent_tokens))
        usage = Usage(len(self.prompt.ids), self.completion_tokens, self.cached_tokens)
        completion = tuple(self.tokens[len(self.prompt.ids) :])
        self.post(Finished(reason, usage, self._timings(), completion))
        self.close()

    def fail(self, error: GemmaError) -> None:
        """End the reply with an error, after the text that there is."""
        self.post_taken()
        self.finished = True
        self.events.close(error)

    def close(self) -> None:
        """End it without a word; what is sent after this goes nowhere."""
        self.finished = True
        self.events.close()

    def _timings(self) -> Timings:
        now = time.monotonic()
        admitted = self._admitted or now
        decoding = self._decoding or now
        return Timings(
            queue_seconds=admitted - self._submitted,
            prefill_seconds=decoding - admitted,
            decode_seconds=now - decoding,
            ttft_seconds=(self._first or now) - self._submitted,
            total_seconds=now - self._submitted,
        )
