"""What the next forward pass computes: one row per decoding slot first, then prompt chunks in what is left."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from gemma_mcp.engine.backend import MediaRow, Row, TokenRow
from gemma_mcp.engine.job import Job
from gemma_mcp.engine.speculation import MOST_GUESSES, guesses_worth

__all__ = ["plan_guesses", "plan_rows", "row_length"]

Guesses = Mapping[int, list[int]]
"""What may follow a job's tokens, by its slot."""


def plan_guesses(jobs: Sequence[Job], most: int, seconds: Callable[[int], float]) -> dict[int, list[int]]:
    """Guesses for jobs that all decode, `most` at most, as far as they pay; `seconds` of a step by its tokens."""
    guesses: dict[int, list[int]] = {}
    rows = len(jobs)
    for job in jobs:
        room = min(MOST_GUESSES, most, job.limit - len(job.tokens) - 1)
        if room <= 0 or not job.guesser.wanted(len(job.tokens)):
            continue
        guess = job.guesser.guess(job.tokens, room)
        count = guesses_worth(job.guesser.right, rows, seconds, len(guess))
        if count:
            guesses[_slot(job)] = guess[:count]
            most -= count
            rows += count
        elif guess:
            job.guesser.rest(len(job.tokens))
    return guesses


def plan_rows(jobs: Sequence[Job], step_tokens: int, prompt_tokens: int, guesses: Guesses) -> tuple[Row, ...]:
    """Rows for jobs that have a slot, given in order of admission.

    Prompts share `prompt_tokens` of a step, and at most one image is computed. A step never has more than
    `step_tokens` tokens.
    """
    rows: list[Row] = []
    reading: list[Job] = []
    for job in jobs:
        if not job.decoding:
            reading.append(job)
        elif len(rows) < step_tokens:
            guess = guesses.get(_slot(job), ())
            rows.append(TokenRow(_slot(job), job.position, (job.tokens[-1], *guess), True, len(guess)))
    budget = min(prompt_tokens, step_tokens - len(rows))
    if reading and budget > 0:
        rows += _prompt_rows(reading, budget)
    return tuple(rows)


def _prompt_rows(jobs: Sequence[Job], budget: int) -> Iterator[Row]:
    image_planned = False
    texts: list[Job] = []
    for job in jobs:
        span = job.next_span()
        if span is None or span.start != job.position:
            texts.append(job)
        elif not image_planned:
            image_planned = True
            yield MediaRow(_slot(job), job.position, span.media)
    for job, count in _shares(texts, budget):
        end = job.position + count
        yield TokenRow(_slot(job), job.position, tuple(job.tokens[job.position : end]), end == len(job.tokens))


def _shares(jobs: Sequence[Job], budget: int) -> list[tuple[Job, int]]:
    """How many tokens each gets: those that people wait for first, and of these the ones that need least, so that a
    long prompt does not hold up short ones. The one that was admitted first gets half at least, so that none waits for
    ever.
    """
    wants = {id(job): job.next_stop() - job.position for job in jobs}
    order = sorted(jobs, key=_urgency)
    counts: dict[int, int] = {}
    if order and order[0] is not jobs[0]:
        counts[id(jobs[0])] = min(wants[id(jobs[0])], -(-budget // 2))
        budget -= counts[id(jobs[0])]
    for job in order:
        had = counts.get(id(job), 0)
        count = min(wants[id(job)] - had, budget)
        counts[id(job)] = had + count
        budget -= count
    return [(job, counts[id(job)]) for job in jobs if counts[id(job)]]


def _urgency(job: Job) -> tuple[bool, int]:
    return job.bulk, len(job.tokens) - job.position


def _slot(job: Job) -> int:
    assert job.slot is not None
    return job.slot


def row_length(job: Job, row: Row) -> int:
    """Positions that a row of the job takes."""
    if isinstance(row, TokenRow):
        return len(row.tokens)
    return next(span.length for span in job.prompt.spans if span.start == row.position)
