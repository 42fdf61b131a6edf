import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from project_trees import write
from scripted_engine import Connect, ScriptedEngines, error_of, finished, said, texts

from gemma_mcp.server import output

TEXT = "".join(f"line {number} with ü\n" for number in range(1, 101))


@pytest.fixture(autouse=True)
def long_reply(engines: ScriptedEngines) -> None:
    engines.play([said(TEXT), finished()])


async def call(connect: Connect, write_setting: str = "new", **arguments: Any) -> Any:
    async with connect(write=write_setting) as client:
        return await client.call_tool("generate_text", {"prompt": "x", **arguments})


def files_of(folder: Path) -> dict[str, bytes]:
    """All but what the server keeps for its user, such as figures."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and folder / "home" not in path.parents)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


async def test_the_whole_reply_is_in_the_file_and_a_digest_in_the_result(connect: Connect, project: Path) -> None:
    (project / "out").mkdir()
    digest, line = texts(await call(connect, output="out/summary.md"))
    assert files_of(project) == {"out/summary.md": TEXT.encode()}
    assert digest == (
        "The reply was written to out/summary.md (1,592 bytes, 100 lines, 7 tokens). It begins:\n"
        "line 1 with ü\nline 2 with ü\nline 3 with ü\nline 4 with ü\nline 5 with ü"
    )
    assert line.startswith("[scripted · CPU · stop")


async def test_a_short_reply_is_shown_whole(connect: Connect, engines: ScriptedEngines) -> None:
    engines.play([said("yes\n"), finished()])
    digest, _ = texts(await call(connect, output="a.txt"))
    assert digest.endswith("All of it:\nyes")


async def test_an_existing_file_is_replaced_only_when_that_is_asked_and_allowed(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    write(project, {"a.txt": "old"})
    assert "a.txt: it exists already" in error_of(await call(connect, output="a.txt"))
    assert "a.txt: it exists already" in error_of(await call(connect, "overwrite", output="a.txt"))
    assert not engines.requests
    assert files_of(project) == {"a.txt": b"old"}
    assert "Unknown argument `overwrite`" in error_of(await call(connect, output="a.txt", overwrite=True))
    assert not (await call(connect, "overwrite", output="a.txt", overwrite=True)).is_error
    assert files_of(project) == {"a.txt": TEXT.encode()}
    assert "without `output`" in error_of(await call(connect, "overwrite", overwrite=True))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../a.txt", "its folder does not exist in the project folder"),
        ("sub/../../a.txt", "its folder does not exist in the project folder"),
        ("/tmp/a.txt", "its folder does not exist in the project folder"),
        ("up/a.txt", "its folder does not exist in the project folder"),
        ("gone/a.txt", "its folder does not exist in the project folder"),
        ("file.txt/a.txt", "its folder does not exist in the project folder"),
        (".", "its folder does not exist"),
        ("..", "its folder does not exist"),
        ("sub", "something that is not a file is there"),
        ("sub/", "something that is not a file is there"),
        ("link.txt", "something that is not a file is there"),
        ("dangling.txt", "something that is not a file is there"),
        (".git/hooks/pre-commit", "hidden files and folders"),
        ("hidden/pre-commit", "hidden files and folders"),
        (".mcp.json", "hidden files and folders"),
        (".env", "hidden files and folders"),
        ("server.pem", "its name is one of a file with secrets"),
        ("n" * 300, "file name too long"),
        (" ", "an empty path"),
        ("https://example.org/x", "it is a web address"),
    ],
)
async def test_places_that_are_not_written_to(
    connect: Connect, engines: ScriptedEngines, project: Path, path: str, reason: str
) -> None:
    write(project, {".git/hooks/x": "", "sub/x": "", "file.txt": "kept"})
    (project / "up").symlink_to("..")
    (project / "link.txt").symlink_to("file.txt")
    (project / "dangling.txt").symlink_to("../a.txt")
    (project / "hidden").symlink_to(".git/hooks")
    before = files_of(project.parent)
    for setting in ("new", "overwrite"):
        more = {"overwrite": True} if setting == "overwrite" else {}
        assert reason in error_of(await call(connect, setting, output=path, **more))
    assert files_of(project.parent) == before
    assert not engines.requests


@pytest.mark.parametrize("allowed", ["new", "overwrite"])
async def test_a_reply_that_cannot_be_written_is_not_lost(
    connect: Connect, project: Path, monkeypatch: pytest.MonkeyPatch, allowed: str
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    answer, line = texts(await call(connect, allowed, output="a.txt"))
    assert answer == TEXT
    assert "not written to a file, so it stands here: a.txt: no space left on device." in line
    assert files_of(project) == {}


async def test_a_file_that_appears_meanwhile_is_left_alone(
    connect: Connect, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = output._create  # pyright: ignore[reportPrivateUsage]

    def slowly(path: Path, data: bytes) -> None:
        create(path, data)
        write(project, {"a.txt": "someone else's"})

    monkeypatch.setattr(output, "_create", slowly)
    answer, line = texts(await call(connect, output="a.txt"))
    assert answer == TEXT
    assert "a.txt: it exists already" in line
    assert files_of(project) == {"a.txt": b"someone else's"}


@pytest.mark.skipif(sys.platform == "win32", reason="no hard links are made there")
async def test_a_file_system_without_links_is_written_to_all_the_same(
    connect: Connect, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert not (await call(connect, output="a.txt")).is_error
    assert files_of(project) == {"a.txt": TEXT.encode()}


@pytest.mark.parametrize(
    ("setting", "arguments", "reads_only", "destructive"),
    [
        ("never", set[str](), True, False),
        ("new", {"output"}, False, False),
        ("overwrite", {"output", "overwrite"}, False, True),
    ],
)
async def test_what_the_tool_publishes_is_what_it_can_do(
    connect: Connect, setting: str, arguments: set[str], reads_only: bool, destructive: bool
) -> None:
    async with connect(write=setting) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    published = tools["generate_text"]
    assert {"output", "overwrite"} & set(published.input_schema["properties"]) == arguments
    assert published.annotations is not None
    assert published.annotations.read_only_hint is reads_only
    assert published.annotations.destructive_hint is destructive
    assert {"output", "overwrite"} & set(tools["map_files"].input_schema["properties"]) == arguments
    for name in ("complete_code", "analyze_image", "chat", "map_files"):
        annotations = tools[name].annotations
        assert annotations is not None
        assert annotations.read_only_hint is (name != "map_files")
        assert annotations.destructive_hint is (destructive and name == "map_files")


async def test_by_default_nothing_is_written(connect: Connect, project: Path) -> None:
    assert "Unknown argument `output`" in error_of(await call(connect, "never", output="a.txt"))
    assert files_of(project) == {}
