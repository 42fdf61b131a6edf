"""What the chat prints: answers as they come, a line of progress that goes away again, and one on where they came from.

Answers go to stdout, everything else to stderr; what is no terminal gets neither progress nor colour.
"""

import os
import sys

import click

from gemma_mcp.cli.console import columns, fitted, tell
from gemma_mcp.cli.terminal.conversation import Watcher
from gemma_mcp.cli.terminal.flow import Flow
from gemma_mcp.errors import GemmaError
from gemma_mcp.server.replies import Reply

__all__ = ["Screen"]


class Screen:
    """Shows turns. `interactive`: a person looks on, and wants to know more than the answer."""

    def __init__(self, *, interactive: bool) -> None:
        self.interactive = interactive
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._shown = 0
        self._at_line_start = True
        self._noticed = ""
        self._flow: Flow | None = None

    def watcher(self) -> Watcher:
        """For a turn that begins now."""
        self._flow = Flow(columns()) if self.interactive else None
        return Watcher(self._wait, self._take)

    def close(self, reply: Reply | None) -> None:
        """The turn is over; None when it was interrupted."""
        self.abandon()
        if reply is None:
            self.note("(stopped)")
        elif self.interactive:
            self.note(_provenance(reply))
            self._notice(reply.card.notice)
            click.echo()
        else:
            unfinished = [f"the answer is not complete, {_ending(reply)}"] if reply.finish_reason != "stop" else []
            for text in (*reply.notes, *unfinished):
                tell(f"{text}.")

    def abandon(self) -> None:
        """The turn failed, or is over: what waits is shown, and the next thing begins on a line of its own."""
        self._clear()
        if self._flow:
            self._write(self._flow.end())
            self._flow = None
        if not self._at_line_start:
            click.echo()
            self._at_line_start = True

    def note(self, text: str) -> None:
        """Something beside the conversation."""
        click.secho(fitted(text), dim=True)

    def fail(self, error: GemmaError) -> None:
        """What went wrong."""
        self.abandon()
        click.secho(fitted(str(error), err=True), fg="red", err=True)

    def _wait(self, text: str) -> None:
        if not self._live:
            return
        line = f"{text} …"[: columns()]
        click.secho(f"\r{line:{min(self._shown, columns())}}", nl=False, err=True, dim=True)
        self._shown = len(line)

    def _take(self, text: str) -> None:
        self._clear()
        self._write(self._flow.feed(text) if self._flow else text)

    def _write(self, text: str) -> None:
        if text:
            click.echo(text, nl=False)
            self._at_line_start = text.endswith("\n")

    def _clear(self) -> None:
        if self._shown:
            click.echo(f"\r{'':{self._shown}}\r", nl=False, err=True)
            self._shown = 0

    def _notice(self, text: str) -> None:
        """What is said of a model is said once."""
        if text and text != self._noticed:
            self._noticed = text
            self.note(text)


def _provenance(reply: Reply) -> str:
    parts = [reply.card.model]
    if reply.usage:
        parts.append(f"{reply.usage.prompt_tokens:,} + {reply.usage.completion_tokens:,} tokens")
    parts.append(f"{reply.seconds:.1f} s")
    if reply.finish_reason != "stop":
        parts.append(_ending(reply))
    return f"[{' · '.join([*parts, *reply.notes])}]"


def _ending(reply: Reply) -> str:
    if reply.finish_reason == "length":
        count = f" after {reply.usage.completion_tokens:,} tokens" if reply.usage else ""
        return f"cut off{count}; --max-tokens or server.max_tokens allow more"
    return reply.finish_reason
