from pathlib import Path

import pytest
from scripted_engine import Connect, ScriptedEngines, error_of, filled, finished, said, texts

from gemma_mcp.errors import ContextOverflowError, UnsupportedError
from gemma_mcp.wire import ChatCompletionRequest, CompletionRequest

NO_FIM = UnsupportedError("This model was not trained for fill-in-the-middle.", "")


def asked(engines: ScriptedEngines, index: int = -1) -> tuple[str, str | None]:
    request = engines.requests[index]
    assert isinstance(request, CompletionRequest)
    return request.prompt, request.suffix


async def test_a_model_that_can_fills_in_the_middle(connect: Connect, engines: ScriptedEngines) -> None:
    engines.play([filled("a +"), filled(" b"), finished()])
    async with connect() as client:
        result = await client.call_tool(
            "complete_code", {"prefix": "def add(a, b):\n    return ", "suffix": "\n\nprint(add(1, 2))\n"}
        )
    assert texts(result)[0] == "a + b"
    assert asked(engines) == ("def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n")
    assert engines.requests[0].temperature == 0
    assert engines.requests[0].max_tokens == 256


async def test_a_repeated_suffix_does_not_come_back(connect: Connect, engines: ScriptedEngines) -> None:
    engines.play([filled("a + b\n\nprint(add(1, 2))\n"), finished()])
    async with connect() as client:
        result = await client.call_tool("complete_code", {"prefix": "return ", "suffix": "\n\nprint(add(1, 2))\n"})
    assert texts(result)[0] == "a + b"


async def test_line_ends_of_windows_go_in_and_come_out(connect: Connect, engines: ScriptedEngines) -> None:
    engines.play([filled("x\ny"), finished()])
    async with connect() as client:
        result = await client.call_tool("complete_code", {"prefix": "a\r\nb\r\n", "suffix": "\r\nc\r\n"})
    assert texts(result)[0] == "x\r\ny"
    assert asked(engines) == ("a\nb\n", "\nc\n")


async def test_a_file_is_split_at_the_cursor(connect: Connect, engines: ScriptedEngines, project: Path) -> None:
    (project / "app.py").write_bytes(b"\xef\xbb\xbfdef f():\r\n    return \r\n\r\nf()\r\n")
    engines.play([filled("1"), finished()])
    async with connect() as client:
        result = await client.call_tool("complete_code", {"file": "app.py", "line": 2, "column": 12})
        assert texts(result)[0] == "1"
        assert asked(engines) == ("def f():\n    return ", "\n\nf()\n")
        await client.call_tool("complete_code", {"file": "app.py", "line": 2})
        assert asked(engines) == ("def f():\n    return ", "\n\nf()\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "There is nothing to complete."),
        ({"prefix": "", "suffix": "\n"}, "There is nothing to complete."),
        ({"file": "empty.py", "line": 1}, "There is nothing to complete."),
        ({"file": "app.py"}, "`file` was given without `line`."),
        ({"file": "app.py", "line": 1, "prefix": ""}, "`file` was given together with"),
        ({"prefix": "x", "line": 1}, "were given without `file`."),
        ({"prefix": "x", "column": 1}, "were given without `file`."),
        ({"file": "app.py", "line": 0}, "`line` must be at least 1, not 0."),
        ({"file": "app.py", "line": 1, "column": -1}, "`column` must be at least 1, not -1."),
        ({"file": "app.py", "line": 9}, "app.py: there is no line 9: the file has 2."),
        ({"file": "app.py", "line": 1, "column": 99}, "app.py: line 1 has no column 99: its last is 6."),
        ({"file": "gone.py", "line": 1}, "gone.py: there is no such file"),
        ({"file": "../x.py", "line": 1}, "../x.py: it lies outside the project folder"),
        ({"prefix": "x", "language": "a\nb`"}, "`language` must be a plain name, not the text 'a\\nb`'."),
    ],
)
async def test_a_cursor_that_makes_no_sense_is_refused(
    connect: Connect, engines: ScriptedEngines, project: Path, arguments: dict[str, object], reason: str
) -> None:
    (project / "app.py").write_text("x = 1\n", encoding="utf-8")
    (project / "empty.py").write_text("", encoding="utf-8")
    async with connect() as client:
        assert reason in error_of(await client.call_tool("complete_code", arguments))
    assert not engines.requests


async def test_a_model_that_cannot_is_instructed_and_remembered(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    (project / "app.py").write_text("def add(a, b):\n    \n", encoding="utf-8")
    reply = "Sure:\n```python\ndef add(a, b):\n    total = a + b\n    return total\n```\nHope that helps!"
    engines.play([NO_FIM], [said(reply), finished()])
    async with connect() as client:
        for _ in range(2):
            result = await client.call_tool("complete_code", {"file": "app.py", "line": 2})
            answer, line = texts(result)
            assert answer == "total = a + b\n    return total"
            assert "instructed, not filled in the middle" in line
    first, *others = engines.requests
    assert isinstance(first, CompletionRequest)
    assert len(others) == 2
    for request in others:
        assert isinstance(request, ChatCompletionRequest)
        assert "Complete this python code" in str(request.messages[-1].content)
        assert str(request.messages[-1].content).endswith("def add(a, b):\n    <CURSOR>\n")


async def test_what_one_model_cannot_another_is_asked_for(connect: Connect, engines: ScriptedEngines) -> None:
    engines.play([NO_FIM], [said("1"), finished()], [filled("2"), finished()])
    async with connect() as client:
        assert texts(await client.call_tool("complete_code", {"prefix": "x = "}))[0] == "1"
        assert texts(await client.call_tool("complete_code", {"prefix": "x = ", "model": "b"}))[0] == "2"
    assert isinstance(engines.requests[-1], CompletionRequest)


@pytest.mark.parametrize("reply", ["I am only a toy model. I do not know that.", "", "```\n```", "x = "])
async def test_prose_and_repetition_never_come_back_as_code(
    connect: Connect, engines: ScriptedEngines, reply: str
) -> None:
    engines.play([NO_FIM], [said(reply), finished()])
    async with connect() as client:
        text = error_of(await client.call_tool("complete_code", {"prefix": "a = 1\nx = ", "language": "python"}))
    assert "explained or repeated instead of writing" in text


async def test_a_text_too_long_for_the_context_is_cut_around_the_cursor_and_said_so(
    connect: Connect, engines: ScriptedEngines
) -> None:
    prefix = "".join(f"before {n}\n" for n in range(1000)) + "x = "
    suffix = "\n" + "".join(f"after {n}\n" for n in range(1000))
    engines.play([ContextOverflowError(9000, 256, 2048)], [filled("1"), finished()])
    async with connect() as client:
        result = await client.call_tool("complete_code", {"prefix": prefix, "suffix": suffix})
    near, far = asked(engines)
    assert far is not None
    assert prefix.endswith("\n" + near)
    assert suffix.startswith(far)
    assert far.endswith("\n")
    assert 0 < len(near) + len(far) < len(prefix + suffix) * 0.25
    assert f"only {near.count(chr(10)) + 1} lines before and {far.count(chr(10))} after" in texts(result)[1]


async def test_a_text_that_never_fits_is_the_engines_error(connect: Connect, engines: ScriptedEngines) -> None:
    engines.play([ContextOverflowError(300, 128, 200)])
    async with connect() as client:
        assert "200" in error_of(await client.call_tool("complete_code", {"prefix": "word " * 200}))
        assert 1 < len(engines.requests) <= 3
        engines.play([ContextOverflowError(300, 500, 200)])
        assert "500" in error_of(await client.call_tool("complete_code", {"prefix": "word " * 200}))


async def test_an_encoding_that_was_guessed_is_told(connect: Connect, engines: ScriptedEngines, project: Path) -> None:
    (project / "a.py").write_bytes("name = 'Grüße, schöne Grüße'\nx = \n".encode("cp1252"))
    async with connect() as client:
        result = await client.call_tool("complete_code", {"file": "a.py", "line": 2})
    assert "a.py read as cp1252" in texts(result)[1]
