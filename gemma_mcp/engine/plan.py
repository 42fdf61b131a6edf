"""What the next forward pass computes: one row per decoding slot first, then prompt chunks in what is left."""

from collections.abc import Sequence

from gemma_mcp.engine.backend import MediaRow, Row, TokenRow
from gemma_mcp.engine.job import Job

__all__ = ["plan_rows"]


def plan_rows(jobs: Sequence[Job], step_tokens: int, prefill_chunk: int) -> tuple[Row, ...]:
    """Rows for jobs that have a slot, in order of admission.

    Prompts share `prefill_chunk` tokens of a step, so that decoding slots wait no longer than that, and at most one
    image is computed. A step never has more than `step_tokens` tokens.
    """
    decoding = [job for job in jobs if job.decoding][:step_tokens]
    rows: list[Row] = [_token_row(job, 1) for job in decoding]
    budget = min(prefill_chunk, step_tokens - len(rows))
    image_planned = False
    for job in jobs:
        if job.decoding or budget <= 0:
            continue
        span = job.next_span()
        if span is not None and span.start == job.position:
            if not image_planned:
                rows.append(MediaRow(_slot(job), job.position, span.media))
                image_planned = True
            continue
        end = span.start if span is not None else len(job.tokens)
        count = min(budget, end - job.position)
        rows.append(_token_row(job, count))
        budget -= count
    return tuple(rows)


def _token_row(job: Job, count: int) -> TokenRow:
    end = job.position + count
    return TokenRow(_slot(job), job.position, tuple(job.tokens[job.position : end]), sample=end == len(job.tokens))


def _slot(job: Job) -> int:
    assert job.slot is not None
    return job.slot
