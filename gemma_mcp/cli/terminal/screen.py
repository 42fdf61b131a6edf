"""What the chat prints: answers as they come, a line of progress that goes away again, and one on where they came from.

Answers go to stdout, everything else to stderr; what is no terminal gets neither progress nor colour.
"""

import os
import shutil
import sys

import click

from gemma_mcp.cli.console import tell
from gemma_mcp.cli.terminal.conversation import Watcher
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

    def watcher(self) -> Watcher:
        """For a turn that begins now."""
        return Watcher(self._wait, self._write)

    def close(self, reply: Reply | None) -> None:
        """The turn is over; None when it was interrupted."""
        self._clear()
        self._end_line()
        if reply is None:
            self.note("(stopped)")
        elif self.interactive:
            self.note(_provenance(reply))
            self._notice(reply.card.notice)
        elif reply.finish_reason != "stop":
            tell(f"The answer is not complete: {_ending(reply)}.")

    def abandon(self) -> None:
        """The turn failed."""
        self._clear()
        self._end_line()

    def note(self, text: str) -> None:
        """A line beside the conversation."""
        click.secho(text, dim=True, err=not self.interactive)

    def _wait(self, text: str) -> None:
        if not self._live:
            return
        width = shutil.get_terminal_size().columns - 1  # a full line would wrap
        line = f"{text} …"[:width]
        click.secho(f"\r{line:{min(self._shown, width)}}", nl=False, err=True, dim=True)
        self._shown = len(line)

    def _write(self, text: str) -> None:
        self._clear()
        click.echo(text, nl=False)
        self._at_line_start = text.endswith("\n")

    def _clear(self) -> None:
        if self._shown:
            click.echo(f"\r{'':{self._shown}}\r", nl=False, err=True)
            self._shown = 0

    def _end_line(self) -> None:
        if not self._at_line_start:
            click.echo()
            self._at_line_start = True

    def _notice(self, text: str) -> None:
        """What is said of a model is said once."""
        if text and text != self._noticed:
            self._noticed = text
            self.note(click.wrap_text(text, shutil.get_terminal_size().columns - 1))


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
