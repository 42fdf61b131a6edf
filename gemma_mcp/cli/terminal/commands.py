"""The commands of the chat, which begin with a slash."""

import difflib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click

from gemma_mcp.cli.console import columns
from gemma_mcp.cli.terminal.conversation import Conversation
from gemma_mcp.cli.terminal.inputs import Attachments
from gemma_mcp.cli.terminal.screen import Screen
from gemma_mcp.errors import InputRefusedError, RequestError
from gemma_mcp.server.sessions import Summary

__all__ = ["COMMANDS", "Command", "Leave", "run"]

LISTED = 20
"""Sessions that fit a screen."""


class Leave(Exception):  # noqa: N818 - it is no error
    """The user wants to go."""


@dataclass(frozen=True)
class Command:
    """A command: how it is written, what it does, and the function that does it."""

    usage: str
    help: str
    run: Callable[[Conversation, Screen, str], None]

    @property
    def name(self) -> str:
        """With its slash."""
        return self.usage.partition(" ")[0]


def run(line: str, conversation: Conversation, screen: Screen) -> None:
    """Do what a line that begins with a slash says. Raises Leave, and GemmaError with what is wrong."""
    name, _, argument = line.strip().partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise RequestError(f"There is no command {name}.", f"{hint}/help lists them; // begins a text with a slash.")
    command.run(conversation, screen, argument.strip())


def _help(_: Conversation, screen: Screen, argument: str) -> None:
    width = max(len(command.usage) for command in COMMANDS.values())
    for command in COMMANDS.values():
        click.echo(f"  {command.usage:{width}}  {command.help}")
    click.echo("\nEnter sends; Alt-Enter begins a new line; Ctrl-C stops an answer.")


def _model(conversation: Conversation, screen: Screen, argument: str) -> None:
    if argument:
        conversation.options = replace(conversation.options, model=argument)
        screen.note(f"The next answer is from {argument}.")
        return
    known = [card.model for card in conversation.models()]
    for name in dict.fromkeys((*known, conversation.model)):
        click.echo(f"{'*' if name == conversation.model else ' '} {name}")
    screen.note("/model NAME chooses another, by name or by the path of a GGUF file.")


def _system(conversation: Conversation, screen: Screen, argument: str) -> None:
    if argument:
        text = "" if argument == "-" else argument
        conversation.options = replace(conversation.options, system=text)
    screen.note(f"System instruction: {conversation.system or 'none'}")


def _image(conversation: Conversation, screen: Screen, argument: str) -> None:
    _attach(conversation, screen, Attachments(images=(_needed(argument, "/image PATH"),)))


def _file(conversation: Conversation, screen: Screen, argument: str) -> None:
    _attach(conversation, screen, Attachments(files=(_needed(argument, "/file SPEC"),)))


def _attach(conversation: Conversation, screen: Screen, attached: Attachments) -> None:
    conversation.attach(attached)
    names = ", ".join((*conversation.attached.files, *conversation.attached.images))
    screen.note(f"Goes with your next message: {names}")


def _fork(conversation: Conversation, screen: Screen, argument: str) -> None:
    before = conversation.session
    now = conversation.fork()
    if before is None or now is None:
        raise RequestError("There is nothing to fork yet.", "Say something first.")
    screen.note(f"From here on this is {now.name}; /resume {before.name} goes back.")


def _save(conversation: Conversation, screen: Screen, argument: str) -> None:
    """As Markdown."""
    from gemma_mcp.server.sessions.transcript import transcript

    path = Path(_needed(argument, "/save PATH")).expanduser()
    session = conversation.session
    if session is None or not session.kept:
        raise RequestError("There is nothing to save yet.", "Say something first.")
    text = transcript(session, conversation.store.summary(session.name))
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise InputRefusedError(str(path), "there is such a file already", "Give another name.") from None
    except OSError as error:
        raise InputRefusedError(str(path), f"it cannot be written: {(error.strerror or str(error)).lower()}") from None
    screen.note(f"Saved: {path}")


def _new(conversation: Conversation, screen: Screen, argument: str) -> None:
    conversation.new()
    screen.note("A new conversation.")


def _sessions(conversation: Conversation, screen: Screen, argument: str) -> None:
    found = conversation.store.summaries(argument)
    for line in _listing(found[:LISTED], conversation):
        click.echo(line)
    if len(found) > LISTED:
        screen.note(f"and {len(found) - LISTED} older ones; /sessions PREFIX shows fewer")
    if not found:
        screen.note("There are no sessions yet.")


def _listing(found: list[Summary], conversation: Conversation) -> Iterator[str]:
    for one in found:
        mark = "*" if conversation.session and one.name == conversation.session.name else " "
        line = f"{mark} {one.name}  {_when(one.used)}  {_turns(one.turns):>9}  {one.opening}"
        yield line if len(line) <= columns() else f"{line[: columns() - 1]}…"


def _turns(count: int) -> str:
    return f"{count} turn{'' if count == 1 else 's'}"


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _resume(conversation: Conversation, screen: Screen, argument: str) -> None:
    """With the model and the system instruction that it had."""
    session = conversation.resume(_needed(argument, "/resume NAME"))
    conversation.options = replace(conversation.options, model=None, system=None)
    screen.note(f"{session.name} goes on after {_turns(session.turns)}.")


def _quit(conversation: Conversation, screen: Screen, argument: str) -> None:
    raise Leave


def _needed(argument: str, usage: str) -> str:
    if not argument:
        raise RequestError("Something is missing.", f"It is written {usage}.")
    return argument


COMMANDS = {
    command.name: command
    for command in (
        Command("/file SPEC", "read a file with your next message: path, path:10-80", _file),
        Command("/image PATH", "show an image with your next message", _image),
        Command("/model [NAME]", "list the models, or choose another", _model),
        Command("/system [TEXT]", "show or set the system instruction; - removes it", _system),
        Command("/new", "begin another conversation", _new),
        Command("/fork", "go on in a copy of this one", _fork),
        Command("/sessions", "list the conversations that are kept", _sessions),
        Command("/resume NAME", "go on in one of them", _resume),
        Command("/save PATH", "write this one to a Markdown file", _save),
        Command("/help", "show this", _help),
        Command("/quit", "leave; so does Ctrl-D", _quit),
    )
}
