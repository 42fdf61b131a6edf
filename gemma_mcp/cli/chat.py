"""`gemma-mcp chat`: talk with a model in a terminal, or ask one question in a pipe."""

import sys
from typing import TYPE_CHECKING

import click

from gemma_mcp.cli.invocation import Invocation, overriding
from gemma_mcp.errors import GemmaError, InputRefusedError, RequestError

if TYPE_CHECKING:  # a second of imports that `gemma-mcp --help` does without
    from gemma_mcp.cli.terminal.conversation import Conversation
    from gemma_mcp.cli.terminal.screen import Screen
    from gemma_mcp.places import Places

__all__ = ["chat"]

INTERRUPTED = 130
"""What shells report for a command that Ctrl-C ended: 128 + SIGINT."""


@click.command()
@click.argument("words", nargs=-1, metavar="[MESSAGE]...")
@click.option("-m", "--model", help="Model to ask, by name or path.")
@click.option("-s", "--system", help="System instruction.")
@click.option("-f", "--file", "files", multiple=True, metavar="SPEC", help="File to read: path, path:10-80.")
@click.option("-i", "--image", "images", multiple=True, metavar="PATH", help="Image to look at.")
@click.option("--session", metavar="NAME", help="Go on in this session.")
@click.option("-c", "--continue", "resume", is_flag=True, help="Go on in the session that was used last.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer.")
@click.option("--temperature", type=click.FloatRange(0, 100), help="0 always takes the likeliest token.")
@overriding
@click.pass_context
def chat(
    context: click.Context,
    words: tuple[str, ...],
    model: str | None,
    system: str | None,
    files: tuple[str, ...],
    images: tuple[str, ...],
    session: str | None,
    resume: bool,
    max_tokens: int | None,
    temperature: float | None,
) -> None:
    """Talk with a model. With a MESSAGE, or in a pipe: ask once, and print the answer alone.

    Text that comes through a pipe stands before the message, like a file. Conversations are sessions, the same ones
    that the tool `chat` has; they are kept when this command ends.
    """
    from gemma_mcp.cli.terminal.conversation import Conversation, Options
    from gemma_mcp.cli.terminal.inputs import Attachments
    from gemma_mcp.cli.terminal.screen import Screen

    given = context.find_object(Invocation)
    assert given is not None
    settings = given.loaded.settings
    conversation = Conversation(settings, given.places, Options(model, system, max_tokens, temperature))
    _open(conversation, session, resume)
    interactive = not words and sys.stdin.isatty() and sys.stdout.isatty()
    piped = "" if interactive else _piped(settings.server.max_prompt_bytes, wanted=not words)
    message = " ".join(words) or piped.strip()
    screen = Screen(interactive=interactive)
    conversation.attached = Attachments(files, images, piped if words else "")
    if interactive:
        _talk(conversation, screen, given.places)
    else:
        context.exit(_ask_once(conversation, screen, message))


def _open(conversation: "Conversation", name: str | None, resume: bool) -> None:
    if name and resume:
        raise click.UsageError("--session and --continue exclude each other.")
    if resume:
        latest = next(iter(conversation.store.summaries()), None)
        if latest is None:
            raise RequestError("There is no session to go on in yet.", "Leave --continue out to start one.")
        name = latest.name
    if name:
        conversation.resume(name)


def _piped(limit: int, *, wanted: bool) -> str:
    """What stdin holds. A terminal is read only if there is no other message."""
    if sys.stdin is None or (sys.stdin.isatty() and not wanted):
        return ""
    data = sys.stdin.buffer.read(limit + 1)
    if len(data) > limit:
        raise InputRefusedError("stdin", f"it has more than {limit:,} bytes", "Raise server.max_prompt_bytes.")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise InputRefusedError("stdin", "it is not UTF-8", "Send text.") from None


def _ask_once(conversation: "Conversation", screen: "Screen", message: str) -> int:
    if not message:
        raise RequestError("There is no message.", 'Example: gemma-mcp chat --file a.txt "Summarise this."')
    try:
        reply = conversation.say(message, screen.watcher())
    except BaseException:
        screen.abandon()
        raise
    screen.close(reply)
    return INTERRUPTED if reply is None else 0


def _talk(conversation: "Conversation", screen: "Screen", places: "Places") -> None:
    from gemma_mcp.cli.terminal.commands import Leave
    from gemma_mcp.cli.terminal.line import Line

    line = Line(places.sessions, lambda begun: [one.name for one in conversation.store.summaries(begun)])
    screen.note(f"{conversation.model}. /help shows the commands, Ctrl-D leaves.")
    while True:
        try:
            _answer(line.read(), conversation, screen)
        except KeyboardInterrupt:
            screen.abandon()  # at the line, it takes back what was typed
        except (EOFError, Leave):
            break
        except GemmaError as error:
            screen.fail(error)
    if conversation.session and conversation.session.kept:
        screen.note(f"gemma-mcp chat --session {conversation.session.name} goes on here.")


def _answer(typed: str, conversation: "Conversation", screen: "Screen") -> None:
    from gemma_mcp.cli.terminal.commands import run

    text = typed.strip()
    if text.startswith("/") and not text.startswith("//"):
        run(text, conversation, screen)
    elif text:
        screen.close(conversation.say(text.removeprefix("/"), screen.watcher()))
