"""`gemma-mcp chat` on a terminal, typed at through a pseudo-terminal."""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals to type at")

CLI = ["-c", "from gemma_mcp.cli.main import main; main()"]
SECONDS = 60
READY = r"\x1b\[\?2004h"
"""The line tells the terminal how to paste when it begins to listen; what is sent before goes to nobody."""

CTRL_D = "\x04"

Start = Callable[..., Any]


def spawned(*arguments: Any, **options: Any) -> Any:
    """A process on a pseudo-terminal."""
    from pexpect import spawn as pexpect_spawn  # pyright: ignore[reportUnknownVariableType]

    return cast("Any", pexpect_spawn)(*arguments, **options, encoding="utf-8", timeout=SECONDS)


class Terminal:
    """What a person sees and does. Control sequences are taken out of what was printed."""

    def __init__(self, child: Any) -> None:
        self.child = child

    def type(self, text: str) -> None:
        """A line, and Enter, once the prompt is there."""
        self.press(f"{text}\r")

    def press(self, keys: str) -> None:
        """Keys, once the prompt is there."""
        self.child.expect(READY)
        self.child.send(keys)

    def see(self, *texts: str) -> str:
        """Wait for the texts, one after the other; what stood before the last of them."""
        for text in texts:
            self.child.expect(text.replace(" ", r"(?:\x1b\[[0-9;?]*[a-zA-Z]|\s)+"))
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.child.before)

    def leave(self) -> int:
        """Ctrl-D, and the exit code."""
        self.press(CTRL_D)
        self.end()
        return self.child.exitstatus

    def end(self) -> None:
        """Wait until the program has ended."""
        import pexpect

        self.child.expect(pexpect.EOF)
        self.child.close()


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Open a terminal of 80 columns with the chat in it; terminals are closed, and the engine is ended."""
    project = tmp_path / "project"
    project.mkdir()
    environment |= {"GEMMA_MCP_MODEL_DEFAULT": "echo", "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"}
    opened: list[Any] = []

    def spawn(*arguments: str, **changes: str) -> Terminal:
        child: Any = spawned(
            sys.executable,
            [*CLI, "chat", *arguments],
            env=environment | changes,
            cwd=str(project),
            dimensions=(24, 80),
        )
        opened.append(child)
        terminal = Terminal(child)
        terminal.see("Ctrl-D leaves")
        return terminal

    yield spawn
    for child in opened:
        child.close(force=True)
    subprocess.run([sys.executable, *CLI, "engine", "stop"], env=environment, capture_output=True, check=True)


def test_an_answer_streams_in_and_where_it_came_from_follows(start: Start) -> None:
    terminal = start()
    terminal.type("!slow 0.3 one two three four")
    shown = terminal.see("reading", "one", "two", "three")
    assert "four" not in shown
    terminal.see("four", r"\[echo")
    assert terminal.leave() == 0


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on_with_what_was_said(start: Start) -> None:
    terminal = start()
    terminal.type("!slow 0.3 alpha beta gamma delta epsilon zeta eta theta")
    terminal.see("reading", "alpha", "beta")
    terminal.child.sendintr()
    shown = terminal.see(r"\(stopped\)")
    assert "theta" not in shown
    terminal.type("/save half.md")
    terminal.see("Saved: half.md")
    half = Path(terminal.child.cwd, "half.md").read_text(encoding="utf-8")
    assert "alpha beta" in half.partition("## Gemma")[2]
    assert "theta" not in half.partition("## Gemma")[2]
    terminal.type("hello again")
    terminal.see(r"\[echo")
    assert terminal.leave() == 0


def test_ctrl_c_before_the_first_word_leaves_the_conversation_as_it_was(start: Start, tmp_path: Path) -> None:
    terminal = start()
    terminal.type("first")
    terminal.see(r"\[echo")
    terminal.type(f"!hold {tmp_path / 'never'} x")
    terminal.see("reading")
    terminal.child.sendintr()
    terminal.see(r"\(stopped\)")
    terminal.type("/sessions")
    terminal.see("1 turn")
    assert terminal.leave() == 0


def test_ctrl_c_at_the_line_takes_back_what_was_typed(start: Start) -> None:
    terminal = start()
    terminal.press("half a")
    terminal.see("half a")
    terminal.child.sendintr()
    terminal.type("other")
    terminal.see(r"\[echo")
    terminal.type("/save it.md")
    terminal.see("Saved")
    assert "half" not in Path(terminal.child.cwd, "it.md").read_text(encoding="utf-8")
    assert terminal.leave() == 0


def test_a_fork_leaves_its_origin_alone(start: Start) -> None:
    terminal = start()
    terminal.type("first")
    terminal.see(r"\[echo")
    terminal.type("/fork")
    terminal.see("From here on this is ")
    terminal.see("/resume ")
    terminal.child.expect(r"(s-\w+)")
    origin = terminal.child.match[1]
    terminal.type("second")
    terminal.see(r"\[echo")
    terminal.type("/save forked.md")
    terminal.see("Saved")
    terminal.type(f"/resume {origin}")
    terminal.see("goes on after 1 turn")
    terminal.type("/save origin.md")
    terminal.see("Saved")
    forked, kept = (Path(terminal.child.cwd, name).read_text(encoding="utf-8") for name in ("forked.md", "origin.md"))
    assert "first" in forked
    assert "second" in forked
    assert "first" in kept
    assert "second" not in kept
    assert terminal.leave() == 0


def test_conversations_and_typed_lines_are_there_in_the_next_run(start: Start, environment: dict[str, str]) -> None:
    terminal = start()
    terminal.type("remember this")
    terminal.see(r"\[echo")
    terminal.press(CTRL_D)
    terminal.see("chat --session ")
    terminal.child.expect(r"(s-\w+)")
    name = terminal.child.match[1]
    again = start("--continue")
    again.press("\x1b[A")  # the up arrow
    again.see("remember this")
    again.child.send("\r")
    again.see(r"\[echo")
    again.type("/sessions")
    again.see(name, "2 turns")
    assert again.leave() == 0
    typed = Path(environment["GEMMA_MCP_HOME"]) / "sessions" / "typed"
    assert stat.S_IMODE(typed.stat().st_mode) == 0o600
    assert stat.S_IMODE(typed.parent.stat().st_mode) == 0o700


def test_what_is_typed_while_an_answer_comes_is_sent_next(start: Start) -> None:
    terminal = start()
    terminal.type("!slow 0.2 long answer")
    terminal.see("reading", "long")
    terminal.child.send("and this\r")
    terminal.see(r"\[echo", "and this", r"\[echo")
    assert terminal.leave() == 0


def test_several_lines_are_one_message(start: Start) -> None:
    terminal = start()
    terminal.press("one\x1b\rtwo\x1b\rthree\r")
    terminal.see(r"\[echo")
    terminal.type("/save lines.md")
    terminal.see("Saved")
    assert "one\ntwo\nthree" in Path(terminal.child.cwd, "lines.md").read_text(encoding="utf-8")
    assert terminal.leave() == 0


def test_files_system_instructions_and_models_are_set_by_commands(start: Start) -> None:
    terminal = start()
    Path(terminal.child.cwd, "a.txt").write_text("from the file\n")
    terminal.type("/file nothing.txt")
    terminal.see("there is no such file")
    terminal.type("/file a.txt")
    terminal.see("Goes with your next message: a.txt")
    terminal.type("/system Be brief.")
    terminal.see("System instruction: Be brief.")
    terminal.type("look")
    terminal.see("from the file", r"\[echo")
    terminal.type("again")
    assert "from the file" not in terminal.see(r"\[echo")
    terminal.type("/save it.md")
    terminal.see("Saved")
    assert "## System\n\nBe brief." in Path(terminal.child.cwd, "it.md").read_text(encoding="utf-8")
    terminal.type("/save it.md")
    terminal.see("there is such a file already")
    terminal.type("/model nothing-like-this")
    terminal.type("hello")
    terminal.see("There is no model 'nothing-like-this' here.")
    terminal.type("/model echo")
    terminal.see("The next answer is from echo.")
    terminal.type("/new")
    terminal.see("A new conversation.")
    terminal.type("/save new.md")
    terminal.see("There is nothing to save yet.")
    assert terminal.leave() == 0


def test_what_is_no_command_says_so_and_two_slashes_are_text(start: Start) -> None:
    terminal = start()
    terminal.type("/sav x")
    terminal.see("There is no command /sav.", "Did you mean /save")
    terminal.type("/help")
    terminal.see("/fork", "/quit", "Alt-Enter")
    terminal.type("//usr/bin is a folder")
    terminal.see("/usr/bin is a folder", r"\[echo")
    terminal.type("/quit")
    terminal.end()
    assert terminal.child.exitstatus == 0


def test_without_colour_there_are_no_colours(start: Start) -> None:
    terminal = start(NO_COLOR="1")
    terminal.type("hello")
    terminal.see(r"\[echo")
    terminal.type("/nothing")
    terminal.child.expect("There is no command")
    assert not re.search(r"\x1b\[(?:[1-9]|[0-9;]*3[0-7])m", terminal.child.before)
    assert terminal.leave() == 0


def test_an_answer_in_a_pipe_of_a_terminal_has_no_progress_in_it(start: Start, tmp_path: Path) -> None:
    """stdout is a file, stderr and stdin are the terminal."""
    import pexpect

    out = tmp_path / "answer.txt"
    command = f'"$0" -c "from gemma_mcp.cli.main import main; main()" chat "!slow 0.05 hello" > {out}'
    terminal = start()  # starts the engine's home
    child: Any = spawned("sh", ["-c", command, sys.executable], env=terminal.child.env)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert out.read_text() == "hello" + os.linesep
    assert "reading" in child.before or "waiting" in child.before
    assert child.before.rstrip(" ").endswith("\r")
    terminal.leave()
