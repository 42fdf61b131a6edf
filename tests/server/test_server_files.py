import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from scripted_engine import Connect, ScriptedEngines, error_of

from gemma_mcp.server.inputs.files import split_lines
from gemma_mcp.server.inputs.paths import project_root


async def refusal(connect: Connect, *files: str, **changes: Any) -> str:
    async with connect(**changes) as client:
        return error_of(await client.call_tool("generate_text", {"prompt": "x", "files": list(files)}))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain", "plain"),
        (b"\xef\xbb\xbfwith mark", "with mark"),
        ("üñ€😀".encode(), "üñ€😀"),
        (b"\xff\xfe" + "wide ü".encode("utf-16-le"), "wide ü"),
        (b"\xfe\xff" + "wide ü".encode("utf-16-be"), "wide ü"),
        (b"\xff\xfe\0\0" + "wide ü".encode("utf-32-le"), "wide ü"),
        (b"\0\0\xfe\xff" + "wide ü".encode("utf-32-be"), "wide ü"),
        (b"", ""),
    ],
)
async def test_text_in_every_usual_encoding_is_read(
    connect: Connect, engines: ScriptedEngines, project: Path, data: bytes, text: str
) -> None:
    (project / "a.txt").write_bytes(data)
    async with connect() as client:
        await client.call_tool("generate_text", {"prompt": "x", "files": ["a.txt"]})
    assert engines.prompt == f'<file path="a.txt">\n{text}\n</file>\n\nx'


@pytest.mark.parametrize(
    "data",
    [b"\x89PNG\r\n\x1a\n\0\0", b"latin \xfc\x01", b"nul\0", b"\xff\xfe\0\0x\0\0", b"\xff\xfex"],
)
async def test_what_is_no_text_is_refused(connect: Connect, project: Path, data: bytes) -> None:
    (project / "a.bin").write_bytes(data)
    assert (await refusal(connect, "a.bin")).startswith("a.bin: it is not a text file.")


async def test_a_file_that_is_not_there_is_named(connect: Connect) -> None:
    assert (await refusal(connect, "no/such.txt")).startswith("no/such.txt: there is no such file")


async def test_a_folder_is_refused(connect: Connect, project: Path) -> None:
    (project / "sub").mkdir()
    assert (await refusal(connect, "sub")).startswith("sub: it is a folder.")


@pytest.mark.parametrize(
    "path", ["../outside.txt", "sub/../../outside.txt", "../missing.txt", "link.txt", "link/x.txt"]
)
async def test_nothing_outside_the_project_is_read(
    connect: Connect, engines: ScriptedEngines, project: Path, path: str
) -> None:
    outside = project.parent / "outside.txt"
    outside.write_text("secret", encoding="utf-8")
    (project.parent / "x.txt").write_text("secret", encoding="utf-8")
    (project / "sub").mkdir()
    if path.startswith("link"):
        (project / "link.txt").symlink_to(outside)
        (project / "link").symlink_to(project.parent)
    text = await refusal(connect, path)
    assert text.startswith(f"{path}: it lies outside the project folder.")
    assert not engines.requests


async def test_an_absolute_path_is_judged_by_where_it_leads(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    (project / "a.txt").write_text("in", encoding="utf-8")
    outside = project.parent / "b.txt"
    outside.write_text("out", encoding="utf-8")
    async with connect() as client:
        await client.call_tool("generate_text", {"prompt": "x", "files": [str(project / "a.txt")]})
    assert engines.prompt.startswith('<file path="a.txt">\nin\n')
    assert "outside the project folder" in await refusal(connect, str(outside))


async def test_a_link_inside_the_project_is_followed(connect: Connect, engines: ScriptedEngines, project: Path) -> None:
    (project / "real.txt").write_text("here", encoding="utf-8")
    (project / "link.txt").symlink_to("real.txt")
    async with connect() as client:
        await client.call_tool("generate_text", {"prompt": "x", "files": ["link.txt"]})
    assert engines.prompt.startswith('<file path="real.txt">\nhere')


async def test_a_loop_of_links_is_refused(connect: Connect, project: Path) -> None:
    (project / "a").symlink_to("b")
    (project / "b").symlink_to("a")
    assert (await refusal(connect, "a")).startswith("a: ")
    assert (await refusal(connect, "missing/../a")).startswith("missing/../a: ")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fifos in the file system")
async def test_a_fifo_is_refused_without_waiting_for_a_writer(connect: Connect, project: Path) -> None:
    os.mkfifo(project / "pipe")
    assert (await refusal(connect, "pipe")).startswith("pipe: it is not a regular file.")


@pytest.mark.skipif(sys.platform == "win32", reason="a device file of POSIX")
async def test_a_device_is_refused(connect: Connect, project: Path) -> None:
    (project / "zero").symlink_to("/dev/zero")
    assert "outside the project folder" in await refusal(connect, "zero")
    assert "outside the project folder" in await refusal(connect, "/dev/zero")


@pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
async def test_a_file_that_may_not_be_read_is_refused(connect: Connect, project: Path) -> None:
    (project / "locked.txt").write_text("x", encoding="utf-8")
    (project / "locked.txt").chmod(0)
    assert (await refusal(connect, "locked.txt")).startswith("locked.txt: permission denied")


async def test_a_file_that_is_too_large_is_refused_with_both_sizes(connect: Connect, project: Path) -> None:
    (project / "big.txt").write_bytes(b"x" * 1001)
    text = await refusal(connect, "big.txt", max_file_bytes=1000)
    assert text.startswith("big.txt: it has 1,001 bytes, more than the 1,000 that are allowed. Name a smaller one")


async def test_too_many_files_are_refused(connect: Connect, project: Path) -> None:
    (project / "a.txt").write_text("a", encoding="utf-8")
    text = await refusal(connect, "a.txt", "a.txt", "a.txt", max_files=2)
    assert "3 were given, more than the 2" in text


async def test_files_count_into_the_size_of_the_prompt(connect: Connect, project: Path) -> None:
    (project / "a.txt").write_bytes(b"x" * 900)
    assert "more than the 1,000" in await refusal(connect, "a.txt", "a.txt", max_prompt_bytes=1000)


@pytest.mark.parametrize(
    ("lines", "attribute", "text"),
    [("2-3", "2-3", "b\r\nc\r\n"), ("4", "4-4", "d\n"), ("1-1", "1-1", "a\n"), ("3-99", "3-4", "c\r\nd\n")],
)
async def test_a_range_takes_just_its_lines(
    connect: Connect, engines: ScriptedEngines, project: Path, lines: str, attribute: str, text: str
) -> None:
    (project / "a.txt").write_bytes(b"a\nb\r\nc\r\nd")
    async with connect() as client:
        await client.call_tool("generate_text", {"prompt": "x", "files": [f"a.txt:{lines}"]})
    assert engines.prompt == f'<file path="a.txt" lines="{attribute}">\n{text}</file>\n\nx'


@pytest.mark.parametrize(
    ("lines", "reason"), [("0-3", "counted from 1"), ("3-2", "not before the first"), ("5-6", "has only 4 lines")]
)
async def test_a_range_that_makes_no_sense_is_refused(connect: Connect, project: Path, lines: str, reason: str) -> None:
    (project / "a.txt").write_bytes(b"a\nb\nc\nd\n")
    text = await refusal(connect, f"a.txt:{lines}")
    assert text.startswith(f"a.txt:{lines}: ")
    assert reason in text


@pytest.mark.skipif(sys.platform == "win32", reason="no colons in names there")
async def test_a_colon_in_a_name_is_no_range_when_that_file_exists(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    (project / "a:1-2").write_text("odd", encoding="utf-8")
    async with connect() as client:
        await client.call_tool("generate_text", {"prompt": "x", "files": ["a:1-2"]})
    assert engines.prompt.startswith('<file path="a:1-2">\nodd\n')


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
async def test_a_name_cannot_break_out_of_its_block(connect: Connect, engines: ScriptedEngines, project: Path) -> None:
    (project / 'a"><b.txt').write_text("odd", encoding="utf-8")
    async with connect() as client:
        await client.call_tool("generate_text", {"prompt": "x", "files": ['a"><b.txt']})
    assert engines.prompt.startswith('<file path="a&quot;>&lt;b.txt">\nodd\n')


@pytest.mark.parametrize("path", [" ", "x" * 5000, "~/secret.txt", "a.txt:1-2-3"])
async def test_odd_paths_get_an_answer_of_one_line(connect: Connect, path: str) -> None:
    assert len(await refusal(connect, path)) < 600


async def test_a_project_folder_that_is_gone_is_named(connect: Connect, project: Path) -> None:
    shutil.rmtree(project)
    assert "the project folder" in await refusal(connect, "a.txt")


def test_the_project_is_what_is_configured_else_the_clients_else_the_working_folder(tmp_path: Path) -> None:
    client = {"CLAUDE_PROJECT_DIR": "/client"}
    assert project_root("/configured", client, tmp_path) == Path("/configured")
    assert project_root("", client, tmp_path) == Path("/client")
    assert project_root("", {"CLAUDE_PROJECT_DIR": "${CLAUDE_PROJECT_DIR}"}, tmp_path) == tmp_path
    assert project_root("", {}, tmp_path) == tmp_path


def test_lines_end_where_editors_end_them() -> None:
    assert split_lines("a\r\nb\rc\n\x0cd\u2028e") == ["a\r\n", "b\r", "c\n", "\x0cd\u2028e"]
    assert split_lines("") == []
