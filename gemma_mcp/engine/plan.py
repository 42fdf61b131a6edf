"""What the next forward pass computes: one row per decoding slot first, then prompt chunks in what is left."""

from collections.abc import Iterator, Sequence

from gemma_mcp.engine.backend import MediaRow, Row, TokenRow
from gemma_mcp.engine.job import Job

__all__ = ["plan_rows"]


def plan_rows(jobs: Sequence[Job], step_tokens: int, prefill_chunk: int) -> tuple[Row, ...]:
    """Rows for jobs that have a slot, in order of admission.

    Prompts share `prefill_chunk` tokens of a step, so that decoding slots wait no longer than that, and at most one
    image is computed. A step never has more than `step_tokens` tokens.
    """
    rows: list[Row] = []
    reading: list[Job] = []
    for job in jobs:
        if not job.decoding:
            reading.append(job)
        elif len(rows) < step_tokens:
            rows.append(TokenRow(_slot(job), job.position, (job.tokens[-1],), sample=True))
    if reading:
        rows += _prompt_rows(reading, min(prefill_chunk, step_tokens - len(rows)))
    return tuple(rows)


def _prompt_rows(jobs: Sequence[Job], budget: int) -> Iterator[Row]:
    image_planned = False
    for job in jobs:
        if budget <= 0:
            return
        span = job.next_span()
        if span is not None and span.start == job.position:
            if not image_planned:
                yield MediaRow(_slot(job), job.position, span.media)
                image_planned = True
            continue
        stop = min(job.position + budget, job.next_stop())
        yield TokenRow(_slot(job), job.position, tuple(job.tokens[job.position : stop]), stop == len(job.tokens))
        budget -= stop - job.position


def _slot(job: Job) -> int:
    assert job.slot is not None
    return job.slot
