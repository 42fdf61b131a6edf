import re
from pathlib import Path

import pytest
from project_trees import commit, git, line_of, names_read, refusal, write
from scripted_engine import Connect, ScriptedEngines, error_of

from gemma_mcp.server.inputs import git_process


@pytest.fixture
def repository(project: Path) -> Path:
    """The project with one commit of two files."""
    git(project, "init", "--quiet", "--initial-branch=main")
    write(project, {"a.txt": "one\ntwo\n", "src/b.py": "b = 1\n"})
    commit(project, "first")
    return project


async def shown(connect: Connect, engines: ScriptedEngines, spec: str) -> str:
    """The text of the one block that an entry becomes."""
    await line_of(connect, spec)
    match = re.fullmatch(r'<file path="[^"]*"[^>]*>\n(.*)</file>\n\nx', engines.prompt, re.DOTALL)
    assert match is not None
    return match[1]


async def test_changes_of_the_working_tree_and_of_the_index_are_told_apart(
    connect: Connect, engines: ScriptedEngines, repository: Path
) -> None:
    write(repository, {"a.txt": "one\nstaged\n"})
    git(repository, "add", "a.txt")
    write(repository, {"src/b.py": "b = 2\n"})
    diff = await shown(connect, engines, "git:diff")
    assert diff.startswith("diff --git a/src/b.py b/src/b.py\n")
    assert "-b = 1\n+b = 2\n" in diff
    assert "staged" not in diff
    assert await names_read(connect, engines, "git:diff") == ["git:diff"]
    for spec in ("git:diff --staged", "git:diff --cached", "git: diff  --staged HEAD"):
        diff = await shown(connect, engines, spec)
        assert "-two\n+staged\n" in diff
        assert "b.py" not in diff
    both = await shown(connect, engines, "git:diff HEAD")
    assert "+staged" in both
    assert "+b = 2" in both


async def test_revisions_are_compared(connect: Connect, engines: ScriptedEngines, repository: Path) -> None:
    git(repository, "checkout", "--quiet", "-b", "side/v1.0")
    write(repository, {"a.txt": "one\nside\n"})
    side = commit(repository)
    git(repository, "checkout", "--quiet", "main")
    write(repository, {"src/b.py": "b = 3\n"})
    commit(repository)
    for spec in ("git:diff main~1 side/v1.0", f"git:diff main~1..{side[:10]}", "git:diff main...side/v1.0"):
        diff = await shown(connect, engines, spec)
        assert "+side" in diff
        assert "b = 3" not in diff
    assert "-side" in await shown(connect, engines, "git:diff side/v1.0..main")


async def test_paths_narrow_a_diff(connect: Connect, engines: ScriptedEngines, repository: Path) -> None:
    write(repository, {"a.txt": "new\n", "src/b.py": "b = 2\n", "src/my file.py": "x\n"})
    git(repository, "add", "--intent-to-add", "src/my file.py")
    assert "a.txt" not in await shown(connect, engines, "git:diff -- src")
    assert "+x" in await shown(connect, engines, "git:diff -- 'src/my file.py'")
    assert "src" not in await shown(connect, engines, f"git:diff HEAD -- {repository}/a.txt")


async def test_a_file_is_shown_as_it_was(connect: Connect, engines: ScriptedEngines, repository: Path) -> None:
    write(repository, {"a.txt": "now\n"})
    assert await shown(connect, engines, "git:show HEAD:a.txt") == "one\ntwo\n"
    assert engines.prompt.startswith('<file path="HEAD:a.txt">')
    assert await shown(connect, engines, "git:show main:./src/../a.txt:2-2") == "two\n"
    assert 'lines="2-2"' in engines.prompt


async def test_a_commit_is_shown_with_its_message(connect: Connect, engines: ScriptedEngines, repository: Path) -> None:
    write(repository, {"a.txt": "now\n"})
    commit(repository, "Say what time it is")
    text = await shown(connect, engines, "git:show HEAD")
    assert "    Say what time it is\n" in text
    assert "+now" in text


async def test_a_merge_is_shown(connect: Connect, engines: ScriptedEngines, repository: Path) -> None:
    git(repository, "checkout", "--quiet", "-b", "side")
    write(repository, {"a.txt": "side\n"})
    commit(repository)
    git(repository, "checkout", "--quiet", "main")
    write(repository, {"a.txt": "main\n", ".env": "SECRET=1\n"})
    commit(repository)
    git(repository, "merge", "--quiet", "--no-commit", "--strategy=ours", "side")
    write(repository, {"a.txt": "both\n", ".env": "SECRET=2\n"})
    commit(repository, "merge")
    text = await shown(connect, engines, "git:show HEAD")
    assert "++both" in text
    assert "SECRET" not in text


async def test_secrets_are_left_out_of_every_report_and_named(
    connect: Connect, engines: ScriptedEngines, repository: Path
) -> None:
    write(repository, {".env": "PASSWORD=old\n", "sub/Key.PEM": "PASSWORD\n", ".env.example": "NAME=\n"})
    commit(repository)
    write(repository, {".env": "PASSWORD=new\n", "sub/Key.PEM": "PASSWORD2\n", ".env.example": "NAMES=\n"})
    for spec in ("git:diff", "git:diff HEAD~1", "git:show HEAD", "git:diff HEAD~1..HEAD"):
        line = await line_of(connect, spec)
        assert "left out as secret: .env, sub/Key.PEM" in line
        assert "PASSWORD" not in engines.prompt
        assert ".env.example" in engines.prompt
    assert "all of it is secret by its name" in await refusal(connect, "git:diff -- .env")
    assert "by its name it holds secrets" in await refusal(connect, "git:show HEAD:.env")
    assert "by its name it holds secrets" in await refusal(connect, "git:show HEAD:sub/Key.PEM")


async def test_secrets_in_a_merge_of_a_larger_repository_are_left_out(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    top = project.parent
    git(top, "init", "--quiet", "--initial-branch", "main")
    secrets = ("project/.env", "project/.aws/config", "project/sub/.env")
    for branch in ("first", "main", "side", "both"):
        if branch == "side":
            git(top, "checkout", "--quiet", "-b", "side", "HEAD~1")
        elif branch == "both":
            git(top, "merge", "--quiet", "--no-commit", "--strategy", "ours", "main")
        write(top, dict.fromkeys(secrets, f"PASSWORD {branch}\n") | {"project/a.txt": f"{branch}\n"})
        commit(top, branch)
    text = await shown(connect, engines, "git:show HEAD")
    assert "++both" in text
    assert "PASSWORD" not in text
    assert "left out as secret: .aws/config, .env, sub/.env" in await line_of(connect, "git:show HEAD")


async def test_a_secret_that_was_renamed_does_not_slip_through(
    connect: Connect, engines: ScriptedEngines, repository: Path
) -> None:
    write(repository, {".env": "PASSWORD=1\n" * 20})
    commit(repository)
    git(repository, "mv", "a.txt", "c.txt")
    git(repository, "mv", ".env", ".env.production")
    assert "PASSWORD" not in await shown(connect, engines, "git:diff --staged")
    assert "left out as secret: .env, .env.production" in await line_of(connect, "git:diff --staged")


async def test_only_the_project_folder_of_a_larger_repository_is_shown(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    top = project.parent
    git(top, "init", "--quiet")
    write(top, {"outside.txt": "secret 1\n", "project/in.txt": "in 1\n"})
    commit(top)
    write(top, {"outside.txt": "secret 2\n", "project/in.txt": "in 2\n"})
    for spec in ("git:diff", "git:diff HEAD", "git:show HEAD"):
        text = await shown(connect, engines, spec)
        assert "a/in.txt b/in.txt" in text
        assert "secret" not in text
    assert await shown(connect, engines, "git:show HEAD:in.txt") == "in 1\n"
    for spec in ("git:show HEAD:../outside.txt", "git:diff -- ../outside.txt", f"git:show HEAD:{top}/outside.txt"):
        assert "outside the project folder" in await refusal(connect, spec)
    assert "no such file in that revision" in await refusal(connect, "git:show HEAD:outside.txt")
    assert "no such file in that revision" in await refusal(connect, "git:show HEAD:project/in.txt")


@pytest.mark.parametrize(
    "spec",
    [
        "git:log", "git:", "git:diff --output=x", "git:diff --no-index /etc/passwd a.txt", "git:diff -O/etc/passwd",
        "git:diff --ext-diff", "git:diff HEAD HEAD HEAD", "git:diff --staged HEAD HEAD", "git:show --output=x HEAD",
        "git:show -p", "git:show :/first", "git:show HEAD^{/first}", "git:diff HEAD;ls", "git:diff 'HEAD",
        "git:diff $(ls)", "git:show", "git:config --list", "git:diff HEAD..", "git:diff --upload-pack=x",
        "git:diff a..b..c",
    ],
)  # fmt: skip
async def test_everything_else_is_refused_with_the_forms_that_are_known(
    connect: Connect, engines: ScriptedEngines, repository: Path, spec: str
) -> None:
    before = sorted(repository.iterdir())  # noqa: ASYNC240
    text = await refusal(connect, spec)
    assert "Known forms: git:diff, git:diff --staged" in text or "there is no commit" in text
    assert sorted(repository.iterdir()) == before  # noqa: ASYNC240
    assert not engines.requests


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("git:diff", "there are no changes"),
        ("git:diff --staged", "there are no changes"),
        ("git:show nowhere:a.txt", "there is no commit 'nowhere'"),
        ("git:show HEAD:gone.txt", "there is no such file in that revision"),
        ("git:show HEAD:src", "it is a folder, a link or a submodule there"),
        ("git:show HEAD:", "an empty path"),
        ("git:show HEAD:a.txt:5-6", "the file has only 2 lines"),
    ],
)
async def test_what_git_has_nothing_for_is_refused_in_a_sentence(
    connect: Connect, repository: Path, spec: str, reason: str
) -> None:
    assert reason in await refusal(connect, spec)


async def test_without_a_repository_gits_own_words_are_passed_on(connect: Connect, project: Path) -> None:
    assert "git:diff: git says: not a git repository" in await refusal(connect, "git:diff")


async def test_a_repository_without_commits_has_a_staged_diff(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    git(project, "init", "--quiet")
    write(project, {"a.txt": "first\n"})
    git(project, "add", "a.txt")
    assert "+first" in await shown(connect, engines, "git:diff --staged")


async def test_no_program_that_the_repository_names_is_run(
    connect: Connect, engines: ScriptedEngines, repository: Path
) -> None:
    trap = f"touch {repository}/sprung; cat"
    write(repository, {".gitattributes": "*.txt diff=trap filter=trap\n*.py filter=dotted.name\n"})
    for key in (
        "diff.external", "diff.trap.command", "diff.trap.textconv", "filter.trap.clean", "filter.trap.smudge",
        "filter.trap.process", "filter.dotted.name.clean", "core.fsmonitor", "core.pager", "pager.diff", "core.editor",
        "core.sshCommand", "gpg.program", "interactive.diffFilter",
    ):  # fmt: skip
        git(repository, "config", key, trap)
    git(repository, "config", "filter.trap.required", "true")
    git(repository, "config", "log.showSignature", "true")
    write(repository, {"a.txt": "one\nnew\n", "src/b.py": "b = 5\n"})
    for spec in ("git:diff", "git:diff HEAD", "git:show HEAD", "git:show HEAD:a.txt"):
        await line_of(connect, spec)
    assert "+new" in await shown(connect, engines, "git:diff")
    assert not (repository / "sprung").exists()


@pytest.mark.parametrize("count", [1, 101])
async def test_filters_that_cannot_be_switched_off_are_refused(connect: Connect, repository: Path, count: int) -> None:
    filters = (f'[filter "a=b{number}"]\nclean = "touch {repository}/sprung; cat"\n' for number in range(count))
    with (repository / ".git" / "config").open("a", encoding="utf-8") as config:
        config.writelines(filters if count == 1 else (line.replace("a=b", "a") for line in filters))
    write(repository, {".gitattributes": "*.txt filter=a=b0\n", "a.txt": "new\n"})
    assert "filters that cannot be switched off" in await refusal(connect, "git:diff")
    assert not (repository / "sprung").exists()


async def test_a_configuration_of_endless_filters_is_refused(
    connect: Connect, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (repository / ".git" / "config").open("a", encoding="utf-8") as config:
        config.write(f'[filter "trap"]\nclean = "touch {repository}/sprung; cat"\n')
        config.writelines(f'[filter "{"x" * 1000}{number}"]\nrequired = false\n' for number in range(1100))
    write(repository, {".gitattributes": "*.txt filter=trap\n", "a.txt": "new\n"})
    assert "more than the" in await refusal(connect, "git:diff")
    assert not (repository / "sprung").exists()


async def test_variables_of_the_environment_do_not_redirect_git(
    connect: Connect, engines: ScriptedEngines, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "false")
    assert await shown(connect, engines, "git:show HEAD:a.txt") == "one\ntwo\n"


async def test_a_repository_whose_history_lies_elsewhere_is_refused(connect: Connect, project: Path) -> None:
    other = project.parent / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    write(other, {"s.txt": "secret\n"})
    commit(other)
    write(project, {".git": f"gitdir: {other}/.git\n"})
    assert "history lies outside the project folder" in await refusal(connect, "git:show HEAD:s.txt")
    assert "secret" not in await refusal(connect, "git:diff")
    (project / ".git").unlink()
    (project / ".git").symlink_to(other / ".git")
    assert "history lies outside the project folder" in await refusal(connect, "git:show HEAD:s.txt")


@pytest.mark.parametrize("way", ["objects", "objects/pack", "plain", "quoted", "through a link", "twice"])
async def test_a_repository_whose_objects_lie_elsewhere_is_refused(
    connect: Connect, repository: Path, way: str
) -> None:
    other = repository.parent / "other"
    write(other, {"s.txt": "secret\n"})
    git(other, "init", "--quiet")
    known = commit(other)
    git(other, "repack", "-adq")
    own, foreign = repository / ".git" / "objects", other / ".git" / "objects"
    if way.startswith("objects"):
        link = repository / ".git" / way
        link.rename(link.with_name("before"))
        link.symlink_to(other / ".git" / way)
    elif way == "through a link":
        (own / "x" / "y" / "z" / "a" / "b").mkdir(parents=True)
        (own / "link").symlink_to("x/y/z/a/b")
        write(own, {"info/alternates": "link/../../../../other/.git/objects\n"})
    elif way == "twice":
        write(own, {"info/alternates": "../inner\n", "../inner/info/alternates": f"# no\n{foreign}\n"})
    else:
        write(own, {"info/alternates": f"{foreign}\n" if way == "plain" else f'"{foreign}"\n'})
    assert "history lies outside the project folder" in await refusal(connect, f"git:show {known}:s.txt")


async def test_objects_may_be_borrowed_inside_the_project(
    connect: Connect, engines: ScriptedEngines, repository: Path
) -> None:
    other = repository / "other"
    write(other, {"s.txt": "shared\n"})
    git(other, "init", "--quiet")
    known = commit(other)
    write(repository, {".git/objects/info/alternates": f"{other}/.git/objects\n"})
    assert await shown(connect, engines, f"git:show {known}:s.txt") == "shared\n"


async def test_a_working_tree_elsewhere_is_refused(connect: Connect, repository: Path) -> None:
    other = repository.parent / "other"
    write(other, {"a.txt": "secret\n"})
    git(repository, "config", "core.worktree", str(other))
    text = await refusal(connect, "git:diff")
    assert "secret" not in text
    assert "does not hold the project folder" in text or "git says" in text


async def test_a_linked_worktree_works(connect: Connect, engines: ScriptedEngines, project: Path) -> None:
    other = project.parent / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    write(other, {"a.txt": "there\n"})
    commit(other)
    git(other, "worktree", "add", "--quiet", "--force", str(project))
    assert await shown(connect, engines, "git:show HEAD:a.txt") == "there\n"


async def test_a_diff_larger_than_allowed_is_refused(connect: Connect, repository: Path) -> None:
    write(repository, {"a.txt": "x\n" * 5000})
    text = await refusal(connect, "git:diff", max_file_bytes=5000)
    assert "git's answer has more than the 5,000 bytes that are allowed. Ask for less" in text


async def test_bytes_of_a_diff_that_are_no_text_are_replaced_and_that_is_told(
    connect: Connect, engines: ScriptedEngines, repository: Path
) -> None:
    (repository / "a.txt").write_bytes("schöne\n".encode("latin-1"))
    line = await line_of(connect, "git:diff")
    assert "git:diff read as UTF-8 with replaced bytes" in line
    assert "+sch\ufffdne" in engines.prompt


async def test_git_that_hangs_is_ended(
    connect: Connect, repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "bin" / "git"
    write(tmp_path, {"bin/git": "#!/bin/sh\nexec sleep 600\n"})
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(git_process, "GIT_SECONDS", 0.2)
    assert "git was not done within 0.2 s" in await refusal(connect, "git:diff")


@pytest.mark.parametrize(("tool", "text"), [("generate_text", "prompt"), ("chat", "message")])
async def test_a_call_does_not_outlast_its_time_while_git_works(
    connect: Connect, repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tool: str, text: str
) -> None:
    write(tmp_path, {"bin/git": "#!/bin/sh\nexec sleep 600\n"})
    (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(git_process, "GIT_SECONDS", 3.0)
    async with connect(max_seconds=0.3) as client:
        said = error_of(await client.call_tool(tool, {text: "x", "files": ["git:diff"]}))
    assert re.search(r"^The files .*were not read yet when the 0.3 s of this call were over\.", said)


async def test_without_git_a_sentence_says_so(
    connect: Connect, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(repository, {"git": "#!/bin/sh\ntouch sprung\n"})
    (repository / "git").chmod(0o755)
    for path in ("", str(repository), "."):
        monkeypatch.setenv("PATH", path)
        monkeypatch.chdir(repository)
        assert "needs git, which is not on the PATH" in await refusal(connect, "git:diff")


async def test_text_that_only_looks_like_an_entry_of_git_is_a_path(
    connect: Connect, engines: ScriptedEngines, repository: Path
) -> None:
    write(repository, {"git-notes.txt": "n"})
    assert await names_read(connect, engines, "git-notes.txt") == ["git-notes.txt"]
