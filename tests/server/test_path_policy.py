import asyncio
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project_trees import commit, git, refusal, write
from scripted_engine import Connect, ScriptedEngines, error_of

from gemma_mcp.errors import GemmaError
from gemma_mcp.server.inputs.encodings import decode_text
from gemma_mcp.server.inputs.files import TextFiles
from gemma_mcp.server.inputs.path_forms import windows_fault
from gemma_mcp.server.inputs.paths import PathPolicy
from gemma_mcp.server.inputs.secret_names import SecretNames

CANARY = "canary-7f3a"


@pytest.mark.parametrize(
    "path",
    [
        ".env", "sub/.env", ".ENV", "prod.env", ".env.local", "server.pem", "Server.PEM", "id_rsa", "id_ed25519.bak",
        ".ssh/config", "home/.ssh/known_hosts", ".aws/credentials", ".netrc", ".npmrc", ".pypirc", "credentials.json",
        "my-credentials.json", "vault.kdbx", "store.p12", "cert.pfx", "tls.key", ".git-credentials", ".git/config",
        "service-account-prod.json", "x-firebase-adminsdk-1.json", "secrets.yaml", ".gnupg/x", "terraform.tfstate",
        "vendor/lib/.git/config", ".git/modules/a/config", ".git/config.worktree", "deploy/.kube/config",
        "ci/.docker/config.json", "home/.aws/config", "home/.aws/sso/cache/x.json", "home/.config/gh/hosts.yml",
        "home/.cargo/credentials.toml", "home/.codex/auth.json",
    ],
)  # fmt: skip
def test_names_of_secrets_are_known(path: str) -> None:
    assert SecretNames().match(path)
    assert not SecretNames(allow_secrets=True).match(path)


@pytest.mark.parametrize(
    "path",
    [
        ".env.example", "sub/.env.sample", "id_rsa.pub", "credentials.py", "src/secrets.rs", "environment.py",
        "README.md", "monkey.txt", "tests/test_credentials.py", "package.json", "docs/secrets.md",
    ],
)  # fmt: skip
def test_other_names_are_not(path: str) -> None:
    assert not SecretNames().match(path)


def test_the_list_is_extended_and_mended_by_the_configuration() -> None:
    names = SecretNames(("*.Sqlite", "!ok.pem", "private/"))
    assert [names.match(path) for path in ("a.sqlite", "ok.pem", "no.pem", "x/private/a")] == [True, False, True, True]


@pytest.mark.parametrize("path", [".env", "sub/../.env", "innocent.txt", "dir/.env", ".env.txt"])
async def test_a_secret_is_refused_by_its_own_name_and_by_that_of_a_link(
    connect: Connect, engines: ScriptedEngines, project: Path, path: str
) -> None:
    write(project, {".env": CANARY, "sub/x": "", "plain": CANARY})
    (project / "innocent.txt").symlink_to(".env")
    (project / "dir").symlink_to(".")
    (project / ".env.txt").symlink_to("plain")
    text = await refusal(connect, path)
    assert text.startswith(f"{path}: by its name it holds secrets. Do without it, or have the user allow it")
    assert not engines.requests


async def test_secrets_are_read_when_the_configuration_allows_them(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    write(project, {".env": "A=1", "a.pem": "k", "b.txt": "b"})
    for changes in ({"allow_secrets": True}, {"deny": ("!.env",)}):
        async with connect(**changes) as client:
            assert not (await client.call_tool("generate_text", {"prompt": "x", "files": [".env"]})).is_error
        assert "A=1" in engines.prompt
    assert "holds secrets" in await refusal(connect, "b.txt", deny=("b.*",), allow_secrets=True)


async def test_further_roots_are_read_by_whole_paths(connect: Connect, engines: ScriptedEngines, project: Path) -> None:
    write(project.parent, {"notes/a.md": "note", "notes/.env": CANARY, "other/b.md": CANARY})
    notes = project.parent / "notes"
    roots = (str(notes), str(project.parent / "gone"))
    async with connect(roots=roots) as client:
        for spec in (f"{notes}/a.md", f"{notes}/*.md", "../notes/a.md"):
            assert not (await client.call_tool("generate_text", {"prompt": "x", "files": [spec]})).is_error
            assert engines.prompt.startswith(f'<file path="{(notes / "a.md").as_posix()}">\nnote\n')
        for spec in (f"{notes}/.env", "../other/b.md", "a.md", f"{notes}/../other/b.md"):
            error_of(await client.call_tool("generate_text", {"prompt": "x", "files": [spec]}))
    text = await refusal(connect, "../other/b.md", roots=roots)
    assert f"Only files in {project} and {notes} are read; server.roots" in text


async def test_roots_may_be_relative_to_the_project(connect: Connect, project: Path) -> None:
    write(project.parent, {"notes/a.md": "note"})
    async with connect(roots=("../notes",)) as client:
        assert not (await client.call_tool("generate_text", {"prompt": "x", "files": ["../notes/a.md"]})).is_error


@pytest.mark.skipif(sys.platform == "win32", reason="sockets in the file system")
async def test_a_socket_is_refused(connect: Connect, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
        assert (await refusal(connect, "sock")).startswith("sock: ")


@pytest.mark.parametrize("path", ["http://example.org/a.txt", "file:///etc/passwd", "HTTPS://x/y"])
async def test_web_addresses_are_refused_by_name(connect: Connect, path: str) -> None:
    assert "it is a web address, and nothing is fetched" in await refusal(connect, path)


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        (r"\\server\share\a.txt", "network share"),
        ("//server/share/a.txt", "network share"),
        (r"\/server/share", "network share"),
        (r"\\?\C:\a.txt", "network share or a device"),
        (r"\\.\PhysicalDrive0", "network share or a device"),
        (r"\\?\UNC\server\share\x", "network share"),
        ("C:a.txt", "relative to the working folder of a drive"),
        ("a.txt:stream", "alternate data stream"),
        ("a.txt::$DATA", "alternate data stream"),
        (r"C:\work\a.txt:s", "alternate data stream"),
        ("con", "device"),
        ("sub/NUL.txt", "device"),
        ("COM1 .log", "device"),
        ("lpt¹", "device"),
        ("CONIN$", "device"),
        (".env.", "dot or a space"),
        (r"sub \a.txt", "dot or a space"),
    ],
)
def test_what_only_windows_reads_into_a_path_is_refused_there(path: str, fault: str) -> None:
    assert fault in windows_fault(path)


@pytest.mark.parametrize("path", ["a.txt", r"sub\a.txt", r"C:\some\a.txt", "C:/some/a.txt", "../a", ".", "console.log"])
def test_plain_paths_are_fine_on_windows(path: str) -> None:
    assert windows_fault(path) == ""


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        ("Größe der Dateien, schöne Grüße aus München.", "cp1252", "cp1252"),
        ("price 5 € naïve café", "cp1252", "cp1252"),
        ("El niño comió piñas en España; ¿cómo está?", "latin-1", "cp1252"),
        ("Привет, как дела? Это журнал ошибок сервера.", "cp1251", "cp1251"),
        ("Привет, как дела? Это журнал ошибок сервера.", "koi8_r", "koi8_r"),
        ("Zażółć gęślą jaźń, proszę bardzo, źle", "cp1250", "cp1250"),
        ("Καλημέρα κόσμε, τι κάνεις;", "cp1253", "cp1253"),
        ("这是一个中文日志文件,发生了错误。", "gb18030", "gb18030"),
        ("한국어 텍스트입니다. 오류가 발생했습니다.", "cp949", "cp949"),
        ("日本語のテキストです。エラーが発生しました。", "shift_jis", "cp932"),
    ],
)
def test_older_encodings_are_recognised_and_named(text: str, encoding: str, named: str) -> None:
    decoded = decode_text("a.txt", text.encode(encoding))
    assert (decoded.text, decoded.guessed) == (text, named)


async def test_a_guessed_encoding_is_told(connect: Connect, engines: ScriptedEngines, project: Path) -> None:
    (project / "a.txt").write_bytes("schöne Grüße".encode("cp1252"))
    async with connect() as client:
        result = await client.call_tool("generate_text", {"prompt": "x", "files": ["a.txt"]})
    assert "a.txt read as cp1252" in str(result.content[1])
    assert "schöne Grüße" in engines.prompt


@given(st.binary(max_size=300))
def test_any_bytes_are_text_or_a_refusal(data: bytes) -> None:
    try:
        decoded = decode_text("x", data)
    except GemmaError:
        return
    decoded.text.encode("utf-8")


@pytest.fixture(scope="module")
def fenced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with traps: whatever holds the canary lies outside or is secret."""
    top = tmp_path_factory.mktemp("fenced")
    project = top / "project"
    write(top, {"outside.txt": CANARY, "project2/x.txt": CANARY, "other/y.py": CANARY})
    write(project, {"a.txt": "fine", "src/b.py": "fine", ".env": CANARY, "src/key.pem": CANARY})
    git(project, "init", "--quiet")
    git(project, "config", "core.editor", CANARY)
    commit(project)
    write(project, {".env": CANARY + "2", "a.txt": "finer"})
    (project / "up").symlink_to("..")
    (project / "out.txt").symlink_to("../outside.txt")
    (project / "src" / "deep").symlink_to("../../other")
    (project / "alias.txt").symlink_to(".env")
    return project


PIECES = st.sampled_from(
    [
        "..", ".", "/", "//", "\\", "*", "**", "?", "[a-z]", "{a,..}", "{..,.env}", "up", "out.txt", "alias.txt", "src",
        "deep", ".env", ".e*", ".git", "config", "a.txt", "b.py", "key.pem", "outside.txt", "project2", "project",
        "x.txt", "y.py", ":1-2", ":", "~", "$HOME", "%2e%2e", "git:", "diff", "show", " ", "HEAD", "HEAD:", "--staged",
        "--no-index", "--output=x", "-O", "--ext-diff", "--textconv", "--", ":/", "^{/x}", "@{-1}", "\n", "\u2025",
    ]
)  # fmt: skip


async def told(files: TextFiles, spec: str) -> str:
    """All that a caller learns from one entry."""
    try:
        return repr(await files.read([spec]))
    except GemmaError as error:
        return str(error)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(PIECES, min_size=1, max_size=7), joint=st.sampled_from(["/", "", " "]))
def test_no_entry_ever_reads_outside_the_roots(fenced: Path, pieces: list[str], joint: str) -> None:
    spec = joint.join(pieces)
    before = sorted(fenced.iterdir())
    assert CANARY not in asyncio.run(told(TextFiles(PathPolicy(fenced), 1_000_000, 64), spec))
    assert sorted(fenced.iterdir()) == before


@pytest.mark.parametrize("spec", ["**/*", "**", "up/*", "git:diff", "git:show HEAD", "git:diff HEAD", "*/**/*"])
async def test_the_widest_entries_stay_inside(fenced: Path, spec: str) -> None:
    text = await told(TextFiles(PathPolicy(fenced), 1_000_000, 64), spec)
    assert "fine" in text or "outside" in text
    assert CANARY not in text
