"""`gemma-mcp install`: the server's entry in the configuration of MCP clients, put in and taken out."""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gemma_mcp.cli.console import fitted, tell
from gemma_mcp.cli.invocation import Invocation, overriding
from gemma_mcp.errors import ConfigError, RequestError

if TYPE_CHECKING:  # read when the command runs
    from gemma_mcp.cli.installation.clients import Client, Scope, Surroundings
    from gemma_mcp.cli.installation.entry import Entry

__all__ = ["install"]

NAMES = ("claude-code", "claude-desktop", "cursor", "vscode", "codex", "gemini")
"""Of the clients; a test holds them equal to CLIENTS, which `gemma-mcp --help` does without."""

CARRIED = ("GEMMA_MCP_HOME", "GEMMA_MCP_CONFIG")
"""Variables that say where settings and files are: a server that did not know them would use others."""

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What every client takes as a server's name; tools are called mcp__NAME__TOOL."""

FAILED = 2


@dataclass(frozen=True)
class Wish:
    """What the command line asks for."""

    name: str
    scope: "Scope"
    remove: bool
    force: bool
    dry_run: bool


@click.command()
@click.argument("clients", nargs=-1, type=click.Choice(NAMES), metavar="[CLIENT]...")
@click.option("--all", "everywhere", is_flag=True, help="All clients that are installed here.")
@click.option(
    "--scope",
    type=click.Choice(["user", "project"]),
    default="user",
    show_default=True,
    help="For all your projects, or for the one in this folder.",
)
@click.option("--name", default="gemma", show_default=True, help="What the client calls the server.")
@click.option("-e", "--env", "variables", multiple=True, metavar="KEY=VALUE", help="Environment of the server.")
@click.option("--force", is_flag=True, help="Replace another entry of that name.")
@click.option("--remove", is_flag=True, help="Take the entry out again.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--print", "show", is_flag=True, help="Print the entry, to be put in by hand.")
@overriding
@click.pass_context
def install(
    context: click.Context,
    clients: tuple[str, ...],
    everywhere: bool,
    scope: "Scope",
    name: str,
    variables: tuple[str, ...],
    force: bool,
    remove: bool,
    dry_run: bool,
    show: bool,
) -> None:
    """Add this server to MCP clients.

    CLIENT is claude-code, claude-desktop, cursor, vscode, codex or gemini. Settings given with --set become part of
    the entry. Whatever else is in a client's file stays as it is, and the file is backed up first.
    """
    from gemma_mcp.cli.installation.clients import find_client

    given = context.find_object(Invocation)
    assert given is not None
    if not NAME.fullmatch(name):
        raise ConfigError("--name", repr(name), "letters, digits, - and _ make a name, at most 64 of them")
    around = _surroundings(given)
    entry = _entry(given, variables)
    if show:
        _print(entry, name, [find_client(each) for each in clients])
        return
    wish = Wish(name, scope, remove, force, dry_run)
    chosen = [find_client(each) for each in dict.fromkeys(clients)] or _choose(around, wish, everywhere)
    if chosen and not remove and not dry_run:
        _check(entry)
    context.exit(max([_serve(client, wish, entry, around) for client in chosen], default=0))


def _surroundings(given: Invocation) -> "Surroundings":
    from gemma_mcp.cli.installation.clients import Surroundings

    return Surroundings(sys.platform, given.environ, Path.home(), Path.cwd())


def _entry(given: Invocation, texts: Sequence[str]) -> "Entry":
    """Settings that are wrong are told here, and not by a server that nobody sees."""
    from gemma_mcp.cli.installation.entry import Entry, interpreter
    from gemma_mcp.settings_sources import load_settings, variable

    variables = {name: value for name in CARRIED if (value := given.environ.get(name))}
    variables |= {variable(key): value for key, value in given.overrides.items()}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError("--env", repr(text), "this is not of the form KEY=VALUE", "Example: -e GEMMA_MCP_HOME=/x")
        variables[key] = value
    load_settings({**given.environ, **variables})
    entry = Entry(interpreter(sys.executable, sys.platform), variables)
    for text in (entry.command, *variables, *variables.values()):
        if not _is_text(text):
            raise ConfigError("the entry", ascii(text), "clients' files are UTF-8, and this is not", "Choose another.")
    return entry


def _is_text(text: str) -> bool:
    """False for bytes of the command line or the environment that were no UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _print(entry: "Entry", name: str, clients: "list[Client]") -> None:
    """As a new file of the client's own form; of Claude Code's, which most others take, too, when none is named."""
    from gemma_mcp.cli.installation.clients import find_client

    for client in clients or [find_client("claude-code")]:
        if len(clients) > 1:
            click.secho(f"{client.title}:", bold=True, err=True)
        click.echo(client.document.with_entry(Path(client.name), "", name, client.write(entry)).rstrip())


def _choose(around: "Surroundings", wish: Wish, everywhere: bool) -> "list[Client]":
    """Of those that are installed: all of them, those that the user says yes to, or none where nobody can be asked."""
    from gemma_mcp.cli.installation.clients import installed

    found = [client for client in installed(around) if client.file(wish.scope, around)]
    if not found:
        raise RequestError("No MCP client was found here.", f"Name one: {', '.join(NAMES)}; or see --print.")
    if everywhere:
        return found
    if sys.stdin.isatty() and sys.stdout.isatty():
        verb = "Remove it from" if wish.remove else "Add it to"
        return [client for client in found if click.confirm(f"{verb} {client.title}?", default=not wish.remove)]
    click.echo("\n".join(_listing(found, wish, around)))
    return []


def _listing(found: "list[Client]", wish: Wish, around: "Surroundings") -> Iterator[str]:
    yield "Clients that are installed here:"
    for client in found:
        yield f"  {client.name:14}  {_shown(client.file(wish.scope, around), around)}"
    words = "gemma-mcp install" + (" --remove" if wish.remove else "")
    yield f"Say which: {words} {found[0].name}"
    yield f"   or all: {words} --all"


def _check(entry: "Entry") -> None:
    from gemma_mcp.cli.installation.entry import check_start, is_passing

    check_start(entry)
    if is_passing(entry.command, sys.platform):
        tell(
            f"{entry.command} belongs to an environment that may soon be gone. "
            "`uv tool install` or `pipx install` makes one that stays."
        )


def _serve(client: "Client", wish: Wish, entry: "Entry", around: "Surroundings") -> int:
    """Do it for one client, and say so; the exit code. What fails for one does not keep the others from theirs."""
    try:
        lines = list(_change(client, wish, entry, around))
    except ConfigError as error:
        tell(f"{client.title}: {error}")
        return FAILED
    click.echo("\n".join(lines))
    return 0


def _change(client: "Client", wish: Wish, entry: "Entry", around: "Surroundings") -> Iterator[str]:
    from gemma_mcp.cli.installation.changes import difference, plan_entry, plan_removal

    path = client.file(wish.scope, around)
    if path is None:
        raise ConfigError("--scope", wish.scope, f"{client.title} has no file of a project", "Leave --scope out.")
    if wish.remove:
        change = plan_removal(path, client.document, wish.name)
    else:
        change = plan_entry(path, client.document, wish.name, client.write(entry), replace=wish.force)
    if change.is_empty:
        yield click.style(f"{client.title}: ", bold=True) + ("not there" if wish.remove else "already there, unchanged")
        yield _row("file", _shown(path, around))
    elif wish.dry_run:
        yield difference(change).rstrip("\n")
    else:
        backup = _apply(client, wish, entry, change, around)
        yield click.style(f"{client.title}: ", bold=True) + ("removed" if wish.remove else "added")
        yield _row("file", _shown(path, around))
        yield from ([_row("backup", _shown(backup, around))] if backup else [])
        yield from ([] if wish.remove else _next(client, wish, entry))


def _apply(client: "Client", wish: Wish, entry: "Entry", change: object, around: "Surroundings") -> Path | None:
    """Make the change. Claude Code's user file is Claude Code's own to write, where its command is at hand."""
    from gemma_mcp.cli.installation.changes import Change, apply, back_up
    from gemma_mcp.cli.installation.claude_command import ClaudeCommand

    assert isinstance(change, Change)
    command = ClaudeCommand.find(around) if client.name == "claude-code" and wish.scope == "user" else None
    if command is None:
        return apply(change, private=wish.scope == "user")
    backup = back_up(change.path)
    if wish.remove or client.document.entry(change.path, change.before or "", wish.name) is not None:
        command.remove(wish.name)
    if not wish.remove:
        command.add(wish.name, client.write(entry))
    return backup


def _next(client: "Client", wish: Wish, entry: "Entry") -> Iterator[str]:
    if entry.variables:
        yield _row("env", ", ".join(entry.variables))
    yield _row("next", client.after)
    if not client.has_project and "GEMMA_MCP_SERVER_ROOT" not in entry.variables:
        words = (
            "It knows no project folder: install it with --set server.root=FOLDER to let the tools read files there."
        )
        yield _row("", words)
    if wish.scope == "project":
        yield _row("", "The entry names your Python by its path: whoever shares the file has another.")


def _row(name: str, text: str) -> str:
    return fitted(text, " " * 10, f"  {name:6}  ")


def _shown(path: Path | None, around: "Surroundings") -> str:
    """A path with `~` for the user's folder."""
    assert path is not None
    if path.is_relative_to(around.home):
        return str(Path("~") / path.relative_to(around.home))
    return str(path)
