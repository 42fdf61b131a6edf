"""`gemma-mcp sessions`: the conversations of the tool `chat`."""

import json
import shutil
import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gemma_mcp.cli.console import size, tell
from gemma_mcp.cli.invocation import Invocation, overriding
from gemma_mcp.errors import RequestError, UnknownSessionError

if TYPE_CHECKING:
    from gemma_mcp.server.sessions import SessionStore, Summary

__all__ = ["sessions"]

MOST_COLUMNS = 120
MODEL_COLUMNS = 16
LIST_HINT = "`gemma-mcp sessions list` names those that there are."


@click.group()
@click.option("--client", metavar="NAME", help="Those of a client of `serve --http` that http.clients names.")
@click.pass_obj
def sessions(given: Invocation, client: str | None) -> None:
    """The conversations of the tool `chat`. They are kept until they are deleted or too old."""
    given.client = client


@sessions.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@overriding
@click.pass_obj
def list_sessions(given: Invocation, as_json: bool) -> None:
    """List all sessions, the last used one first."""
    found = _store(given).summaries()
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
    elif not found:
        click.echo("There are no sessions yet: the tool `chat` makes them.")
    else:
        columns = min(shutil.get_terminal_size((80, 24)).columns, MOST_COLUMNS)
        click.echo("\n".join(_table(found, columns)))


@sessions.command()
@click.argument("name")
@overriding
@click.pass_obj
def show(given: Invocation, name: str) -> None:
    """Print what was said in a session, as Markdown."""
    from gemma_mcp.server.sessions.transcript import transcript

    store = _store(given)
    try:
        text = transcript(store.load(name), store.summary(name))
    except UnknownSessionError as error:
        raise RequestError(error.message, LIST_HINT) from error
    click.echo(_without_controls(text), nl=False)


@sessions.command()
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "everything", is_flag=True, help="Delete every session.")
@overriding
@click.pass_context
def delete(context: click.Context, names: tuple[str, ...], everything: bool) -> None:
    """Delete sessions, with all that only they hold. The exit code is 1 if one of them does not exist."""
    if bool(names) == everything:
        raise click.UsageError("Name the sessions to delete, or give --all.")
    given = context.find_object(Invocation)
    assert given is not None
    store = _store(given)
    gone = store.delete([one.name for one in store.summaries()] if everything else names)
    click.echo(_deleted(len(gone)))
    for name in dict.fromkeys(names):
        if name not in gone:
            tell(f"{UnknownSessionError(name).message} {LIST_HINT}")
    context.exit(0 if set(names) <= set(gone) else 1)


@sessions.command()
@overriding
@click.pass_obj
def prune(given: Invocation) -> None:
    """Delete now what is beyond the limits of the settings `sessions.*`."""
    click.echo(_deleted(len(_store(given).prune())))


@sessions.command()
@overriding
@click.pass_obj
def repair(given: Invocation) -> None:
    """Examine the store. A damaged one is moved aside, and what can be read in it is taken over into a new one."""
    from gemma_mcp.server.sessions.repair import repair as mend

    done = mend(_folder(given))
    if done.aside is None:
        click.echo("The store is sound; nothing was changed.")
        return
    click.echo(f"The damaged store is now {done.aside}")
    click.echo(f"{_count(len(done.saved))} taken over into a new one.")
    if done.lost:
        click.echo(f"Not readable: {', '.join(done.lost)}")


def _store(given: Invocation) -> "SessionStore":
    from gemma_mcp.server.sessions import Limits, SessionStore

    return SessionStore(_folder(given), Limits.of(given.loaded.settings.sessions))


def _folder(given: Invocation) -> Path:
    """Settings are read when a command runs: `--set` may stand behind its name. Raises RequestError."""
    from gemma_mcp.server.http_clients import configured_clients, sessions_of

    if given.client is None:
        return given.places.sessions
    settings = given.loaded.settings
    known = [client.name for client in configured_clients(settings)]
    if given.client not in known:
        raise RequestError(
            f"There is no client {given.client[:80]!r}.", f"Clients of http.clients: {', '.join(known)}."
        )
    return sessions_of(given.client, settings, given.places)


def _deleted(count: int) -> str:
    return f"{_count(count)} deleted."


def _count(count: int) -> str:
    return f"{count} session{'' if count == 1 else 's'}"


def _table(found: "Sequence[Summary]", columns: int) -> Iterator[str]:
    now = time.time()
    models = [_cut(one.answered_by, MODEL_COLUMNS) for one in found]
    widest = max(len("MODEL"), *map(_width, models))
    names = max(len(one.name) for one in found)
    head = f"{'SESSION':{names}}  TURNS  {'MODEL':{widest}}  {'USED':>6}  {'SIZE':>8}  "
    yield f"{head}BEGINS WITH"
    for one, model in zip(found, models, strict=True):
        row = f"{one.name:{names}}  {one.turns:5}  {_filled(model, widest)}  "
        row += f"{_age(now - one.used):>6}  {size(one.size_bytes):>8}  "
        yield row + _cut(_without_controls(one.opening), max(10, columns - len(head)))


def _age(seconds: float) -> str:
    """How long ago, in the largest unit that is whole; a clock that was set back shows as now."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return "now"


def _without_controls(text: str) -> str:
    """What a model or a file said must not steer the terminal."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf") else "\ufffd" for c in text)


def _width(text: str) -> int:
    """Columns on a terminal: East Asian characters take two, combining ones none."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _filled(text: str, columns: int) -> str:
    return text + " " * (columns - _width(text))


def _cut(text: str, columns: int) -> str:
    if _width(text) <= columns:
        return text
    while text and _width(text) > columns - 1:
        text = text[:-1]
    return f"{text.rstrip()}…"
