import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.types import CallToolResult
from project_trees import write
from scripted_engine import ScriptedEngines, Step, error_of, finished, home_of, said, settings, texts

from gemma_mcp.errors import ContextOverflowError, DeadlineError, QueueFullError
from gemma_mcp.server.app import build_server
from gemma_mcp.testing.engines import EngineHome
from gemma_mcp.wire import ChatCompletion, ChatCompletionRequest, GenerationOptions

Answer = Callable[[str], Step | list[Step] | str]


class AnsweringEngines(ScriptedEngines):
    """Answers by what it is asked; a token is a character, 8,192 of them fit."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: Answer = lambda prompt: f"<{len(prompt)}>"
        self.prompts: list[str] = []
        self.most_running = 0

    @asynccontextmanager
    async def _stream(self, request: GenerationOptions) -> AsyncGenerator[AsyncIterator[ChatCompletion]]:
        assert isinstance(request, ChatCompletionRequest)
        prompt = request.messages[-1].content
        assert isinstance(prompt, str)
        self.prompts.append(prompt)
        answer = self.answer(prompt)
        script = [said(answer), finished()] if isinstance(answer, str) else answer
        self.play(script if isinstance(script, list) else [script])
        async with super()._stream(request) as chunks:
            self.most_running = max(self.most_running, len(self.prompts))
            assert len(prompt) + (request.max_tokens or 0) <= 8192
            yield chunks


@pytest.fixture
def answering() -> AnsweringEngines:
    return AnsweringEngines()


@pytest.fixture
def ask(answering: AnsweringEngines, project: Path) -> Any:
    async def call(*specs: str, notes: list[str] | None = None, **arguments: Any) -> CallToolResult:
        async def take(progress: float, total: float | None, message: str | None) -> None:
            if notes is not None:
                notes.append(message or "")

        server = build_server(answering, settings(progress_interval=0.1), project, home_of(project))
        given = {"prompt": "Sum up.", "files": list(specs), "overflow": "chunk"} | arguments
        async with Client(server) as client:
            return await client.call_tool("generate_text", given, progress_callback=take)

    return call


Ask = Callable[..., Any]


def numbered(count: int) -> str:
    return "".join(f"line {number} of a log that goes on and on\n" for number in range(1, count + 1))


def material(prompts: list[str]) -> str:
    """What of the files was in the prompts, put together again."""
    blocks = [re.findall(r"<file path=\"log.txt\"[^>]*>\n(.*?)</file>", prompt, re.DOTALL) for prompt in prompts]
    return "".join(block for found in blocks for block in found)


async def test_what_fits_is_asked_in_one_piece(ask: Ask, answering: AnsweringEngines, project: Path) -> None:
    write(project, {"log.txt": "short\n"})
    answer, line = texts(await ask("log.txt"))
    assert answering.prompts == ['<file path="log.txt">\nshort\n</file>\n\nSum up.']
    assert answer.startswith("<")
    assert "pieces" not in line


async def test_what_is_too_long_is_worked_through_in_pieces_and_merged(
    ask: Ask, answering: AnsweringEngines, project: Path
) -> None:
    write(project, {"log.txt": numbered(500)})
    answering.answer = lambda prompt: "merged" if "Above are the answers" in prompt else f"part {prompt[-70:]}"
    answer, line = texts(await ask("log.txt", system="Be brief."))
    *pieces, merger = answering.prompts
    assert answer == "merged"
    assert len(pieces) == 4
    assert material(pieces) == numbered(500)
    for number, piece in enumerate(pieces, 1):
        assert piece.endswith(
            f"Sum up.\n\n(Above is part {number} of 4 of the material. Do the task for this part alone.)"
        )
    assert merger.count('<file path="answer ') == 4
    assert merger.index("answer 1") < merger.index("answer 4")
    assert merger.endswith("The task was:\n\nSum up.")
    assert "read in 4 pieces" in line
    assert "6,000 prompt (5,000 cached) + 35 completion tokens" in line


async def test_progress_says_which_piece_it_is_about(ask: Ask, answering: AnsweringEngines, project: Path) -> None:
    write(project, {"log.txt": numbered(500)})
    seen = anyio.Event()

    class Told(list[str]):
        def append(self, item: str) -> None:
            super().append(item)
            if "1 token · well" in item:
                seen.set()

    told = Told()
    answering.answer = lambda prompt: [said("well"), seen, finished()]
    with anyio.fail_after(30):
        await ask("log.txt", notes=told)
    assert any(re.fullmatch(r"piece [1-4] of 4 · 1 token · well", message) for message in told)
    assert all(len(message) <= 200 for message in told)


async def test_answers_too_long_to_be_merged_at_once_are_merged_in_rounds(
    ask: Ask, answering: AnsweringEngines, project: Path
) -> None:
    write(project, {"log.txt": numbered(1500)})
    merges: list[int] = []

    def answer(prompt: str) -> str:
        if "Above are the answers" not in prompt:
            return "p" * 1000
        merges.append(prompt.count("<file path"))
        return "m" * 1000

    answering.answer = answer
    text, line = texts(await ask("log.txt"))
    assert text == "m" * 1000
    assert len(merges) > 2
    assert f"read in {sum(merges) - len(merges) + 1} pieces" in line


async def test_the_schema_holds_for_every_piece_and_for_the_merger(
    ask: Ask, answering: AnsweringEngines, project: Path
) -> None:
    write(project, {"log.txt": numbered(300)})
    answering.answer = lambda prompt: json.dumps({"n": len(prompt)})
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    await ask("log.txt", json_schema=schema)
    assert len(answering.requests) == 3
    for request in answering.requests:
        assert request.response_format is not None
        assert request.response_format.json_schema is not None
        assert request.response_format.json_schema.schema_ == schema


async def test_no_more_than_four_pieces_are_asked_at_once(ask: Ask, answering: AnsweringEngines, project: Path) -> None:
    write(project, {"log.txt": numbered(1000)})
    going = anyio.Event()
    running: list[int] = []

    def answer(prompt: str) -> list[Step]:
        running.append(answering.busy + 1)
        if len(running) == 4:
            going.set()
        return [going, said("x"), finished()]

    answering.answer = answer
    with anyio.fail_after(30):
        await ask("log.txt")
    assert max(running) == 4


async def test_when_time_is_up_the_pieces_that_were_read_are_given(
    ask: Ask, answering: AnsweringEngines, project: Path
) -> None:
    write(project, {"log.txt": numbered(500)})

    def answer(prompt: str) -> list[Step] | str:
        if "part 3 of 4" in prompt:
            return [DeadlineError("There was no text yet.")]
        return [said("half"), finished("deadline")] if "part 2 of 4" in prompt else "whole"

    answering.answer = answer
    text, line = texts(await ask("log.txt"))
    assert re.fullmatch(
        r"\[piece 1 of 4: log.txt lines 1-\d+\]\nwhole\n\n\[piece 2 of 4: log.txt lines \d+-\d+\]\nhalf\n\n"
        r"\[piece 4 of 4: log.txt lines \d+-500\]\nwhole",
        text,
    )
    assert "deadline (cut off by max_seconds)" in line
    assert "not merged, the pieces' answers stand one after another (not read: 3)" in line


async def test_when_time_is_up_during_the_merger_the_answers_are_given(
    ask: Ask, answering: AnsweringEngines, project: Path
) -> None:
    write(project, {"log.txt": numbered(300)})
    answering.answer = lambda prompt: (
        [said("merg"), finished("deadline")] if "Above are the answers" in prompt else "whole"
    )
    text, line = texts(await ask("log.txt"))
    assert text.count("whole") == 2
    assert "merg" not in text
    assert "(all read)" in line


async def test_a_time_box_that_ends_ends_the_waiting_pieces_too(
    ask: Ask, answering: AnsweringEngines, project: Path
) -> None:
    write(project, {"log.txt": numbered(5000)})
    answering.answer = lambda prompt: [said("begun"), anyio.Event(), finished()]
    with anyio.fail_after(30):
        text, line = texts(await ask("log.txt", max_seconds=0.2))
    assert text.count("begun") == 4
    assert len(answering.prompts) == 4
    assert "not read: 5, 6, " in line


async def test_json_that_is_not_finished_is_an_error_that_says_how_far_it_came(
    ask: Ask, answering: AnsweringEngines, project: Path
) -> None:
    write(project, {"log.txt": numbered(500)})
    answering.answer = lambda prompt: "{}" if "part 1 of 4" in prompt else [DeadlineError("no text")]
    text = error_of(await ask("log.txt", json_schema={}))
    assert "Of 4 pieces 1 were read and none merged when the 50 s of this call were over. Raise max_seconds" in text


async def test_an_error_of_one_piece_ends_the_others(ask: Ask, answering: AnsweringEngines, project: Path) -> None:
    write(project, {"log.txt": numbered(500)})
    never = anyio.Event()
    answering.answer = lambda prompt: [QueueFullError(9)] if "part 2 of 4" in prompt else [never]
    with anyio.fail_after(30):
        assert "9 requests are waiting already" in error_of(await ask("log.txt"))
    assert answering.busy == 0


async def test_answers_cut_off_at_their_share_are_told(ask: Ask, answering: AnsweringEngines, project: Path) -> None:
    write(project, {"log.txt": numbered(300)})
    answering.answer = lambda prompt: [said("x"), finished("length" if "part 2 of 2" in prompt else "stop")]
    _, line = texts(await ask("log.txt"))
    assert "answers to 2 cut off at their share of the context" in line


async def test_a_prompt_without_room_for_pieces_is_refused_with_the_numbers(
    ask: Ask, answering: AnsweringEngines, project: Path
) -> None:
    write(project, {"log.txt": numbered(300)})
    text = error_of(await ask("log.txt", prompt="p" * 5000))
    assert "5,2" in text
    assert "1,024 tokens of reply leave no room for work in pieces in a context of 8,192 tokens" in text
    assert not answering.prompts


async def test_by_default_what_does_not_fit_is_refused_with_the_numbers_and_the_largest_file(
    ask: Ask, answering: AnsweringEngines, project: Path
) -> None:
    write(project, {"a.txt": "a\n", "log.txt": "x" * 6000})
    answering.answer = lambda prompt: [ContextOverflowError(20_500, 1024, 8192)]
    text = error_of(await ask("a.txt", "log.txt", overflow="refuse"))
    assert text.endswith(
        "The prompt has 20,500 tokens, but with 1,024 tokens of reply the context of 8,192 has room for 7,168; the "
        "largest file is log.txt with 6,030 tokens. Name fewer files or lines of them ('server.log:1-400'), set "
        '`overflow` to "chunk" to have them worked through in pieces, or lower max_tokens.'
    )


async def test_without_files_the_engines_own_refusal_stands(ask: Ask, answering: AnsweringEngines) -> None:
    answering.answer = lambda prompt: [ContextOverflowError(20_500, 1024, 8192)]
    assert "The prompt has 20500 tokens" in error_of(await ask(overflow="refuse"))


async def test_a_real_engine_works_through_pieces(tmp_path: Path, project: Path) -> None:
    home = EngineHome(tmp_path / "home", {"GEMMA_MCP_MODEL_DEFAULT": "echo", "GEMMA_MCP_LLAMACPP_CONTEXT": "3000"})
    write(project, {"log.txt": numbered(150)})
    try:
        async with home.pool() as pool, Client(build_server(pool, home.settings, project, home.places)) as client:
            given = {"prompt": "Sum up.", "files": ["log.txt"], "max_tokens": 24, "max_seconds": 600}
            refused = error_of(await client.call_tool("generate_text", given))
            answer, line = texts(await client.call_tool("generate_text", given | {"overflow": "chunk"}))
    finally:
        home.end()
    assert re.search(r"of 3,000 has room for 2,976; the largest file is log.txt with 5,\d\d\d tokens", refused)
    assert answer == '<file path="answer 1">\n<'
    assert "read in 3 pieces · answers to 1, 2, 3 cut off at their share of the context" in line
