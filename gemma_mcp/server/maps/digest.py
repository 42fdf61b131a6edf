"""What comes back instead of the results: counts, the first of them, why some failed, where all are, how to go on."""

from collections.abc import Iterator
from itertools import islice

from gemma_mcp.server.maps.job import Job
from gemma_mcp.server.maps.journal import Journal
from gemma_mcp.server.maps.rows import Row
from gemma_mcp.server.maps.survey import Plan
from gemma_mcp.server.maps.tally import Failure, Tally, nouns
from gemma_mcp.server.maps.target import Target
from gemma_mcp.server.maps.work import Work
from gemma_mcp.server.replies import Reply
from gemma_mcp.server.results import META_KEY, ToolResult, result_of
from gemma_mcp.wire import ModelCard, PromptTokensDetails, WireUsage

__all__ = ["digest_of"]

ROWS_SHOWN, REASONS_SHOWN, NAMES_SHOWN = 5, 3, 3
TEXT_SHOWN, REASON_SHOWN, NAME_SHOWN = 120, 200, 80
"""Characters; the whole is some hundred tokens."""

NOTES_SHOWN = 3


def digest_of(job: Job, target: Target, journal: Journal, plan: Plan, work: Work) -> ToolResult:
    """The result of a call. Blocks: it reads the rows that it shows."""
    tally = work.tally
    rows = list(islice(_first_rows(journal, plan), ROWS_SHOWN))
    text = "\n".join([_counts(tally), f"Results (JSON Lines): {target.shown}", *_shown(rows, tally), *_next(work)])
    notes = [note for note in (*plan.notes, *work.notes) if note]
    more = (f"{len(notes) - NOTES_SHOWN} further notes",) if len(notes) > NOTES_SHOWN else ()
    reply = Reply(
        text,
        "deadline" if tally.left else "stop",
        work.card or ModelCard(model=job.model.name, notice=job.model.notice),
        _usage(tally),
        None,
        job.options.box.elapsed,
        asked=(job.options.model or job.model.name) if work.card else "",
    )
    result = result_of(reply, notes=(*notes[:NOTES_SHOWN], *more), read=work.read)
    result.meta = {META_KEY: {**(result.meta or {}).get(META_KEY, {}), "map": _figures(tally, target)}}
    return result


def _counts(tally: Tally) -> str:
    done = f"{tally.done:,} done"
    parts = [(tally.kept, "by an earlier call"), (tally.cached, "from the cache"), (tally.cut, "cut off at max_tokens")]
    if details := ", ".join(f"{count:,} {what}" for count, what in parts if count):
        done += f" ({details})"
    others = [(tally.failed, "failed"), (tally.refused, "refused"), (tally.left, "left")]
    return f"{nouns(tally.per, tally.total)}: " + ", ".join(
        [done, *(f"{count:,} {what}" for count, what in others if count)]
    )


def _first_rows(journal: Journal, plan: Plan) -> Iterator[Row]:
    """The first results in the order of the files."""
    return (row for record in plan.records if journal.has(record) and (row := journal.done(record.key)) is not None)


def _shown(rows: list[Row], tally: Tally) -> Iterator[str]:
    if rows:
        yield "All of them:" if len(rows) == tally.total else f"The first {len(rows)}:"
    for row in rows:
        name = f"{row.path}:{row.lines}" if row.lines else row.path
        yield f"- {_end(name, NAME_SHOWN)}: {_start(row.text, TEXT_SHOWN)}"
    if reasons := tally.frequent(REASONS_SHOWN):
        yield "Most frequent reasons of those without a result:" if len(tally.failures) > 1 else "Without a result:"
    yield from map(_reason, reasons)


def _reason(failure: Failure) -> str:
    names = ", ".join(_end(name, NAME_SHOWN) for name in failure.names[:NAMES_SHOWN])
    more = ", …" if failure.count > NAMES_SHOWN else ""
    return f"- {failure.count:,} x {_start(failure.reason, REASON_SHOWN)} ({names}{more})"


def _next(work: Work) -> Iterator[str]:
    tally = work.tally
    if tally.left:
        hint = "" if tally.computed else " None was finished in the time of this call: pass a higher max_seconds."
        yield f"Time was up. The same call again goes on with the {tally.left:,} that are left.{hint}"
    elif tally.failed:
        yield "The same call again tries those that failed once more."


def _usage(tally: Tally) -> WireUsage | None:
    if not tally.prompt_tokens:
        return None
    return WireUsage(
        prompt_tokens=tally.prompt_tokens,
        completion_tokens=tally.completion_tokens,
        total_tokens=tally.prompt_tokens + tally.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=tally.cached_tokens),
    )


def _figures(tally: Tally, target: Target) -> dict[str, object]:
    counts = ("total", "done", "kept", "cached", "computed", "failed", "refused", "left")
    return {"results": str(target.path), **{name: getattr(tally, name) for name in counts}}


def _start(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def _end(text: str, most: int) -> str:
    return text if len(text) <= most else "…" + text[1 - most :]
