"""`gemma-mcp chat` in a pipe."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

CLI = [sys.executable, "-c", "from gemma_mcp.cli.main import main; main()"]
Chat = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def chat(environment: dict[str, str], project: Path) -> Iterator[Chat]:
    """Run it in the project's folder with something in the pipe; its engine is ended."""

    def run(
        *arguments: str, pipe: bytes = b"", model: str = "echo", **changes: str
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*CLI, "chat", *arguments],
            env=environment | {"GEMMA_MCP_MODEL_DEFAULT": model} | changes,
            cwd=project,
            input=pipe,
            capture_output=True,
            check=False,
        )

    yield run
    subprocess.run([*CLI, "engine", "stop"], env=environment, capture_output=True, check=True)


def test_a_question_in_a_pipe_is_answered_and_nothing_else_is_printed(chat: Chat) -> None:
    done = chat(pipe=b"What is the capital of France?\n", model="starter")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == ["The capital of France is Paris."]


def test_files_and_the_pipe_stand_before_the_message(chat: Chat, project: Path) -> None:
    (project / "a.txt").write_text("one\ntwo\nthree\n")
    done = chat("--file", "a.txt:2-9", "Which", "is it?", pipe="Zürich\r\n".encode())
    assert done.returncode == 0, done.stderr
    expected = (
        '<file path="a.txt" lines="2-3">\ntwo\nthree\n</file>\n<file path="stdin">\nZürich\n</file>\n\nWhich is it?\n'
    )
    assert done.stdout.decode() == expected
    assert done.stderr == b"gemma-mcp: a.txt ends at line 3.\n"


def test_a_picture_is_looked_at(chat: Chat, project: Path) -> None:
    picture = Image.new("RGB", (224, 224), "white")
    ImageDraw.Draw(picture).ellipse((56, 56, 168, 168), fill=(220, 30, 30))
    picture.save(project / "picture.png")
    done = chat("--image", "picture.png", "--temperature", "0", "What colour is the circle?", model="starter")
    assert (done.returncode, done.stdout) == (0, b"The circle is red.\n")


def test_a_conversation_goes_on_in_the_next_run(chat: Chat) -> None:
    assert chat("My name is Barnaby.", "--temperature", "0", model="starter").returncode == 0
    done = chat("--continue", "What is my name?", "--temperature", "0", model="starter")
    assert done.stdout == b"Your name is Barnaby.\n"
    fresh = chat("!repeat 1 x")
    assert fresh.stdout == b"x\n"


def test_an_answer_that_was_cut_off_says_so(chat: Chat) -> None:
    done = chat("--max-tokens", "3", "abcdefgh")
    assert (done.returncode, done.stdout) == (0, b"abc\n")
    told = done.stderr.decode()
    assert told.startswith("gemma-mcp: the answer is not complete, cut off after 3 tokens")
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "pipe", "words"),
    [
        ((), b" \n", "There is no message."),
        (("--model", "nothing-like-this", "hello"), b"", "There is no model 'nothing-like-this' here."),
        (("--file", "../x", "hello"), b"", "../x: there is no such file"),
        (("--image", "none.png", "hello"), b"", "none.png: there is no such file"),
        (("--session", "s-0", "hello"), b"", "There is no session 's-0'."),
        (("--continue", "hello"), b"", "There is no session to go on in yet."),
        (("hello",), b"\xff", "stdin: it is not UTF-8."),
        (("!fail x",), b"", ""),
    ],
)
def test_an_error_is_one_sentence_on_stderr_and_exit_code_1(
    chat: Chat, arguments: tuple[str, ...], pipe: bytes, words: str
) -> None:
    done = chat(*arguments, pipe=pipe)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith(f"gemma-mcp: {words}")
    assert len(done.stderr.splitlines()) == 1


def test_a_pipe_that_holds_too_much_is_refused(chat: Chat) -> None:
    done = chat(pipe=b"x" * 2000, GEMMA_MCP_SERVER_MAX_PROMPT_BYTES="1000")
    assert done.returncode == 1
    assert done.stderr.startswith(b"gemma-mcp: stdin: it has more than 1,000 bytes.")
