import os
import sys
from pathlib import Path

import pytest
from project_trees import line_of, names_read, refusal, write
from scripted_engine import Connect, ScriptedEngines

from gemma_mcp.server.inputs import globs


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.py", ["b.py", "c.py"]),
        ("src/*.py", ["src/a.py"]),
        ("src/**/*.py", ["src/a.py", "src/deep/er/d.py", "src/deep/z.py"]),
        ("**/*.py", ["b.py", "c.py", "src/a.py", "src/deep/er/d.py", "src/deep/z.py"]),
        ("**/**/z.*", ["src/deep/z.py"]),
        ("src/**", ["src/a.py", "src/deep/er/d.py", "src/deep/z.py", "src/notes.md"]),
        ("src/{a,deep/z}.py", ["src/a.py", "src/deep/z.py"]),
        ("**/*.{md,txt}", ["src/notes.md"]),
        ("[bc].py", ["b.py", "c.py"]),
        ("?.py", ["b.py", "c.py"]),
        ("./src/../src/*.py", ["src/a.py"]),
        (".github/*.yml", [".github/ci.yml"]),
    ],
)
async def test_a_pattern_names_files_in_the_order_of_their_paths(
    connect: Connect, engines: ScriptedEngines, project: Path, pattern: str, names: list[str]
) -> None:
    tree = ["src/deep/z.py", "src/deep/er/d.py", "c.py", "src/a.py", "src/notes.md", "b.py", ".github/ci.yml"]
    write(project, {name: name for name in [*tree, ".hidden/x.py", ".x.py"]})
    assert await names_read(connect, engines, pattern) == names


async def test_a_pattern_may_be_a_whole_path_into_the_project(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    write(project, {"src/a.py": "a"})
    assert await names_read(connect, engines, f"{project}/src/*.py") == ["src/a.py"]


async def test_a_file_that_two_entries_name_is_read_once(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    write(project, {"a.py": "a", "b.py": "b"})
    assert await names_read(connect, engines, "b.py", "*.py", "**/*.py") == ["b.py", "a.py"]


async def test_lines_of_a_pattern_are_lines_of_each_file(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    write(project, {"a.log": "1\n2\n3\n", "b.log": "1\n"})
    line = await line_of(connect, "*.log:1-2")
    assert '<file path="a.log" lines="1-2">\n1\n2\n</file>' in engines.prompt
    assert '<file path="b.log" lines="1-1">\n1\n</file>' in engines.prompt
    assert "ends at" not in line


async def test_what_gitignore_leaves_out_is_not_matched_and_inner_rules_win(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    write(
        project,
        {
            ".gitignore": "build/\n*.log\n/top.txt\n",
            "build/out.txt": "",
            "a.log": "",
            "top.txt": "",
            "sub/top.txt": "",
            "sub/.gitignore": "!keep.log\nskip.txt\n",
            "sub/keep.log": "",
            "sub/other.log": "",
            "sub/skip.txt": "",
            "skip.txt": "",
        },
    )
    assert await names_read(connect, engines, "**/*") == ["skip.txt", "sub/keep.log", "sub/top.txt"]
    assert await names_read(connect, engines, "sub/*") == ["sub/keep.log", "sub/top.txt"]
    assert await names_read(connect, engines, "a.log") == ["a.log"]


async def test_a_gitignore_is_read_as_git_reads_it(connect: Connect, engines: ScriptedEngines, project: Path) -> None:
    names = ("a.txt", "b.txt", "c\x0cd.txt")
    write(project, {".gitignore": "\ufeffa.txt\r\nc\x0cd.txt\n", **dict.fromkeys(names, "")})
    assert await names_read(connect, engines, "*.txt") == ["b.txt"]


async def test_a_project_inside_a_repository_obeys_the_rules_above_it(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    (project.parent / ".git").mkdir()
    write(project.parent, {".gitignore": "dist/\n"})
    write(project, {"dist/x.js": "", "a.js": ""})
    assert await names_read(connect, engines, "**/*.js") == ["a.js"]


async def test_a_project_that_a_repository_above_leaves_out_is_none_of_its_business(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    (project.parent / ".git").mkdir()
    write(project.parent, {".gitignore": "*\n"})
    write(project, {"a.js": "", "b.js": "", ".gitignore": "b.js\n"})
    assert await names_read(connect, engines, "**/*.js") == ["a.js"]


@pytest.mark.parametrize("pattern", [".git/*", "**/.git/*", ".git/**", ".[g]it/*", "{.git,x}/*"])
async def test_what_is_gits_own_is_never_matched(connect: Connect, project: Path, pattern: str) -> None:
    write(project, {".git/HEAD": "ref", ".git/sub/x": "x"})
    assert (await refusal(connect, pattern)).startswith(f"{pattern}: it matches no file. Hidden files")


async def test_secrets_are_left_out_and_named(connect: Connect, engines: ScriptedEngines, project: Path) -> None:
    write(project, {"a.txt": "a", "key.pem": "k", "sub/prod.env": "p", ".env": "e"})
    line = await line_of(connect, "**/*")
    assert "left out as secret: key.pem, prod.env" in line
    assert engines.prompt == '<file path="a.txt">\na\n</file>\n\nx'
    assert "secret by its name (1 files)" in await refusal(connect, "*.pem")


async def test_files_that_are_no_text_are_left_out_and_named(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    write(project, {"a.txt": "a"})
    (project / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    assert "left out as no text: b.png" in await line_of(connect, "*")
    assert "none of the files that it matches is a text file" in await refusal(connect, "*.png")


async def test_more_files_than_allowed_are_refused_with_the_numbers(connect: Connect, project: Path) -> None:
    write(project, {f"{n}.txt": "" for n in range(5)} | {"a.md": ""})
    text = await refusal(connect, "*.txt", max_files=4)
    assert text.startswith("*.txt: 5 files match, more than the 4 that are allowed.")
    assert "5 were given, more than the 4" in await refusal(connect, "a.md", "[0-3].txt", max_files=4)


async def test_more_bytes_than_allowed_are_refused_with_the_numbers(connect: Connect, project: Path) -> None:
    write(project, {f"{n}.txt": "x" * 400 for n in range(5)})
    text = await refusal(connect, "*.txt", max_prompt_bytes=1000)
    assert "the first 3 have 1,200 bytes together, more than the 1,000" in text


async def test_a_pattern_that_matches_nothing_is_refused(connect: Connect) -> None:
    assert (await refusal(connect, "src/*.rs")).startswith("src/*.rs: it matches no file.")


async def test_a_walk_over_too_much_is_refused(
    connect: Connect, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(globs, "MOST_ENTRIES", 10)
    write(project, {f"sub/{n}.txt": "" for n in range(11)})
    assert "more than 10 files and folders" in await refusal(connect, "**/*.md")


async def test_too_many_braces_are_refused(connect: Connect) -> None:
    assert "more than 64 patterns" in await refusal(connect, "{a,b}" * 10)


@pytest.mark.parametrize("pattern", ["../*", "/*", "sub/../../*", "*/../../*", "link/*", "/etc/*"])
async def test_no_pattern_leaves_the_roots(
    connect: Connect, engines: ScriptedEngines, project: Path, pattern: str
) -> None:
    write(project.parent, {"outside.txt": "secret"})
    write(project, {"sub/a.txt": "a"})
    (project / "link").symlink_to(project.parent)
    await refusal(connect, pattern)
    assert not engines.requests


async def test_links_inside_the_project_are_followed_to_files_and_not_out_of_it(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    write(project.parent, {"outside.txt": "secret", "folder/x.txt": "secret"})
    write(project, {"sub/real.txt": "r", ".env": "e"})
    (project / "in.txt").symlink_to("sub/real.txt")
    (project / "out.txt").symlink_to("../outside.txt")
    (project / "loop").symlink_to(".")
    (project / "folder").symlink_to("../folder")
    (project / "innocent.txt").symlink_to(".env")
    (project / "broken.txt").symlink_to("nowhere")
    assert await names_read(connect, engines, "*.txt") == ["sub/real.txt"]
    assert "secret" not in engines.prompt
    assert await names_read(connect, engines, "**/*.txt") == ["sub/real.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fifos in the file system")
async def test_pipes_are_passed_over(connect: Connect, engines: ScriptedEngines, project: Path) -> None:
    write(project, {"a.txt": "a"})
    os.mkfifo(project / "b.txt")
    os.mkfifo(project / ".gitignore")
    assert await names_read(connect, engines, "*.txt") == ["a.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
async def test_a_file_with_wildcards_in_its_name_goes_first(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    write(project, {"a[1].txt": "odd", "a1.txt": "even"})
    assert await names_read(connect, engines, "a[1].txt") == ["a[1].txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no UTF-8")
async def test_a_name_that_is_no_unicode_is_shown_as_well_as_can_be(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    write(project, {os.fsdecode(b"caf\xe9.txt"): "x"})
    assert await names_read(connect, engines, "*.txt") == ["caf?.txt"]
