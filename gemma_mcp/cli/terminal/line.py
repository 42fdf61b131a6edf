"""The line that the user types in: several lines if need be, its history across runs, completion of commands."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth

from gemma_mcp.cli.terminal.commands import COMMANDS
from gemma_mcp.state import private_folder

__all__ = ["Line"]

HISTORY = "typed"
"""The file of typed lines, beside the sessions: it holds the same secrets."""

PATHS = ("/file", "/image", "/save")


class Line:
    """Reads what is typed. `names` gives the sessions that /resume can be followed by."""

    def __init__(self, folder: Path, names: Callable[[str], Iterable[str]]) -> None:
        private_folder(folder)
        self._session: PromptSession[str] = PromptSession(
            history=FileHistory(_private(folder / HISTORY)),
            completer=_Completer(names),
            complete_while_typing=False,
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation="  ",
            color_depth=ColorDepth.DEPTH_1_BIT if os.environ.get("NO_COLOR") else None,
        )

    def read(self) -> str:
        """What was typed. Raises EOFError for Ctrl-D on an empty line, KeyboardInterrupt for Ctrl-C."""
        return self._session.prompt("> ")


def _private(path: Path) -> str:
    """Its path, after it was made sure that others cannot read it."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    return str(path)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    @keys.add("c-j")  # Enter, when it was pressed while an answer came
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


class _Completer(Completer):
    """Commands, paths after those that take one, sessions after /resume."""

    def __init__(self, names: Callable[[str], Iterable[str]]) -> None:
        self._names = names
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """For what stands before the cursor."""
        command, blank, begun = document.text_before_cursor.partition(" ")
        if not blank:
            for name in COMMANDS:
                if command and name.startswith(command):
                    yield Completion(name, -len(command))
        elif command in PATHS:
            yield from self._paths.get_completions(Document(begun), complete_event)
        elif command == "/resume":
            for name in self._names(begun):
                yield Completion(name, -len(begun))
