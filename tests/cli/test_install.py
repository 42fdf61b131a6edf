"""`gemma-mcp install`, in a user's folder of the test's own."""

import json
import os
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from client_files import LINUX

from gemma_mcp.cli.main import main

Install = Callable[..., subprocess.CompletedProcess[str]]

KEYS = {"vscode": "servers", "codex": "mcp_servers"}

USED = {
    "claude-code": """{
  "numStartups": 7,
  "projects": {"/p": {"x": []}}, "mcpServers": {
    "other": {"url": "u"}
  }
}
""",
    "claude-desktop": '{"globalShortcut":"","mcpServers":{"fs":{"command":"npx","args":["-y"]}}}',
    "cursor": '\ufeff{\r\n\t"mcpServers": {\r\n\t}\r\n}',
    "vscode": """{
    // mine
    "inputs": [],
    "servers": {
        "db": {"type": "http", "url": "u"}, // keep
    },
}
""",
    "codex": """model = "x"  # best

[mcp_servers.db]
command = "npx"
env = { A = "b" }

[tui]
notifications = true""",
    "gemini": '{\n  /* theme */ "theme": "Dracula"\n}\n',
}
"""Files as their owners may have left them."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a user's folder is found by other means there")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "user"
    folder.mkdir()
    return folder


@pytest.fixture
def install(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Install:
    """Run it with an empty user's folder, an empty project, and no programs on the path; on Linux, as it sees it."""
    for name in list(os.environ):
        if name.startswith("GEMMA_MCP_") or name in ("XDG_CONFIG_HOME", "CLAUDE_CONFIG_DIR", "CODEX_HOME"):
            monkeypatch.delenv(name)
    project = home / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", "")
    scratch = home / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))  # these tests may stand in the usual one themselves

    def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as changed:
            for name, value in changes.items():
                changed.setenv(name, value)
            with pytest.raises(SystemExit) as left:
                main(["install", *arguments])
        told = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return subprocess.CompletedProcess(arguments, left.value.code, told.out, told.err)

    return run


def test_an_environment_that_may_soon_be_gone_is_told(
    install: Install, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home, "cursor", "{}")
    assert install("cursor", "--dry-run").stderr == ""
    monkeypatch.setattr(tempfile, "tempdir", str(Path(sys.executable).parent))
    assert "may soon be gone" in install("cursor").stderr


def write(home: Path, client: str, text: str) -> Path:
    path = home / LINUX[client]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def entry_in(path: Path, client: str, name: str = "gemma") -> dict[str, Any]:
    text = path.read_text(encoding="utf-8-sig")
    if client == "codex":
        return tomllib.loads(text)["mcp_servers"][name]
    lines = [line.partition(" // ")[0] for line in text.splitlines() if not line.lstrip().startswith("//")]
    plain = (
        "\n".join(lines)
        .replace("/* theme */", "")
        .replace(",\n    },\n}", "\n    }\n}")
        .replace("},\n    }", "}\n    }")
    )
    return json.loads(plain)[KEYS.get(client, "mcpServers")][name]


def files_of(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


@pytest.mark.parametrize("client", LINUX)
def test_an_entry_is_made_kept_and_taken_out_without_a_trace(install: Install, home: Path, client: str) -> None:
    added = install(client)
    assert added.returncode == 0, added.stderr
    path = home / LINUX[client]
    entry = entry_in(path, client)
    assert (entry["command"], entry["args"]) == (sys.executable, ["-m", "gemma_mcp"])
    assert entry.get("type") == ("stdio" if client in ("claude-code", "cursor", "vscode") else None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = files_of(home)
    again = install(client)
    assert "already there, unchanged" in again.stdout
    assert files_of(home) == before
    assert install("--remove", client).returncode == 0
    assert files_of(home) == {}
    assert "not there" in install("--remove", client).stdout


@pytest.mark.parametrize("client", LINUX)
def test_a_file_in_use_is_changed_in_one_place_and_given_back_byte_for_byte(
    install: Install, home: Path, client: str
) -> None:
    path = write(home, client, USED[client])
    path.chmod(0o640)
    before = files_of(home)
    added = install(client, "-e", "GEMMA_MCP_MODEL_DEFAULT=echo")
    assert added.returncode == 0, added.stderr
    assert entry_in(path, client)["env"] == {"GEMMA_MCP_MODEL_DEFAULT": "echo"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    (backup,) = path.parent.glob("*.bak")
    assert backup.read_bytes() == USED[client].encode()
    assert backup.name in added.stdout
    lost = set(USED[client].splitlines()) - set(path.read_bytes().decode().splitlines())
    assert len(lost) <= 1  # the line to which a comma was added
    assert install(client, "--remove").returncode == 0
    assert files_of(home) == before


@pytest.mark.parametrize("client", LINUX)
def test_what_changed_since_stays_when_the_entry_goes(install: Install, home: Path, client: str) -> None:
    path = write(home, client, USED[client])
    install(client)
    news = "\n# news\n" if client == "codex" else "\n\n"
    path.write_bytes(path.read_bytes() + news.encode())
    assert install(client, "--remove").returncode == 0
    assert "gemma_mcp" not in path.read_text(encoding="utf-8")
    assert path.read_bytes().endswith(news.encode())
    if client == "codex":
        assert tomllib.loads(path.read_text()) == tomllib.loads(USED[client])


@pytest.mark.parametrize("client", LINUX)
def test_another_entry_of_that_name_is_replaced_with_force_only(install: Install, home: Path, client: str) -> None:
    install(client, "-e", "A=old")
    before = files_of(home)
    refused = install(client, "-e", "A=new")
    assert refused.returncode == 2
    assert "another entry of this name is there. --force replaces it" in refused.stderr
    assert files_of(home) == before
    assert install(client, "-e", "A=new", "--force").returncode == 0
    assert entry_in(home / LINUX[client], client)["env"] == {"A": "new"}
    assert install(client, "-e", "A=x", "--name", "gemma-2").returncode == 0
    assert entry_in(home / LINUX[client], client, "gemma-2")["env"] == {"A": "x"}


@pytest.mark.parametrize(
    ("client", "text", "why"),
    [
        ("claude-code", '{"a": 1,}', "line 1, column "),
        ("claude-code", '{"a": NaN}', "line 1, column 7"),
        ("claude-desktop", '{"a": ' + "[" * 150 + "]" * 150 + "}", "it is nested deeper than 100 levels"),
        ("claude-desktop", "// no comments here\n{}", "line 1, column 1"),
        ("vscode", '{\n  "servers": {\n}', "line 3"),
        ("gemini", "[]", "it is no JSON object"),
        ("cursor", '{"mcpServers": []}', "it does not hold servers by their names"),
        ("codex", "a = \n", "it is not TOML"),
        ("codex", "mcp_servers = 3\n", "it does not hold servers by their names"),
        ("gemini", "\udcff", "it is not UTF-8"),
    ],
)
def test_a_broken_file_is_refused_in_a_sentence_and_left_alone(
    install: Install, home: Path, client: str, text: str, why: str
) -> None:
    path = home / LINUX[client]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    before = files_of(home)
    done = install(client)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert LINUX[client] in done.stderr
    assert why in done.stderr
    assert files_of(home) == before


def test_one_broken_file_does_not_keep_the_others_from_theirs(install: Install, home: Path) -> None:
    write(home, "cursor", "{")
    done = install("cursor", "gemini")
    assert done.returncode == 2
    assert done.stderr.startswith("gemma-mcp: Cursor: ")
    assert "Gemini CLI: added" in done.stdout


def test_without_a_name_it_says_which_clients_are_here(install: Install, home: Path) -> None:
    nothing = install()
    assert nothing.returncode == 1
    assert "No MCP client was found here." in nothing.stderr
    (home / ".codex").mkdir()
    (home / ".cursor").mkdir()
    before = files_of(home)
    listed = install()
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines() if line.startswith("  ") and "~" in line] == [
        "cursor",
        "codex",
    ]
    assert "gemma-mcp install --all" in listed.stdout
    assert files_of(home) == before
    assert install("--all").returncode == 0
    assert set(files_of(home)) == {LINUX["cursor"], LINUX["codex"]}


def test_a_projects_files_lie_in_the_project(install: Install, home: Path) -> None:
    done = install("claude-code", "cursor", "vscode", "codex", "gemini", "--scope", "project")
    assert done.returncode == 0, done.stderr
    names = (".mcp.json", ".cursor/mcp.json", ".vscode/mcp.json", ".codex/config.toml", ".gemini/settings.json")
    assert set(files_of(home)) == {f"project/{name}" for name in names}
    assert stat.S_IMODE((home / "project/.mcp.json").stat().st_mode) & 0o044
    refused = install("claude-desktop", "--scope", "project")
    assert refused.returncode == 2
    assert "Claude Desktop has no file of a project" in refused.stderr


def test_a_dry_run_shows_the_change_and_makes_none(install: Install, home: Path) -> None:
    write(home, "vscode", USED["vscode"])
    before = files_of(home)
    done = install("vscode", "--dry-run")
    assert [line for line in done.stdout.splitlines() if line.startswith("-")] == [f"--- {home / LINUX['vscode']}"]
    assert '+        "gemma": {' in done.stdout.splitlines()
    assert files_of(home) == before


def test_a_printed_entry_is_of_the_clients_form(install: Install, home: Path) -> None:
    assert json.loads(install("--print").stdout)["mcpServers"]["gemma"]["command"] == sys.executable
    assert json.loads(install("--print", "vscode").stdout)["servers"]["gemma"]["type"] == "stdio"
    assert tomllib.loads(install("--print", "codex").stdout)["mcp_servers"]["gemma"]["args"] == ["-m", "gemma_mcp"]
    assert files_of(home) == {}


def test_settings_and_the_home_that_is_in_force_become_part_of_the_entry(install: Install, home: Path) -> None:
    elsewhere = str(home / "models")
    done = install("gemini", "--set", "server.max_tokens=99", "-e", "A=b=c", GEMMA_MCP_HOME=elsewhere)
    assert done.returncode == 0, done.stderr
    expected = {"GEMMA_MCP_HOME": elsewhere, "GEMMA_MCP_SERVER_MAX_TOKENS": "99", "A": "b=c"}
    assert entry_in(home / LINUX["gemini"], "gemini")["env"] == expected


@pytest.mark.parametrize(
    "arguments",
    [("-e", "GEMMA_MCP_LLAMACPP_SLOTS=many"), ("--set", "server.nothing=1"), ("-e", "=x"), ("--name", "a b")],
)
def test_what_the_server_would_not_take_is_told_before_anything_is_written(
    install: Install, home: Path, arguments: tuple[str, ...]
) -> None:
    done = install("gemini", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("gemma-mcp: ")
    assert files_of(home) == {}


def test_a_link_is_followed_and_stays_one(install: Install, home: Path) -> None:
    real = home / "dotfiles" / "gemini.json"
    real.parent.mkdir()
    real.write_text(USED["gemini"])
    link = home / LINUX["gemini"]
    link.parent.mkdir()
    link.symlink_to(real)
    assert install("gemini").returncode == 0
    assert link.is_symlink()
    assert "gemma_mcp" in real.read_text()
    assert install("gemini", "--remove").returncode == 0
    assert link.is_symlink()
    assert real.read_text() == USED["gemini"]


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_regular_file_is_refused_and_left_alone(install: Install, home: Path, kind: str) -> None:
    path = home / LINUX["cursor"]
    path.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    before = path.stat()
    for extra in ((), ("--remove",), ("--dry-run",)):
        done = install("cursor", *extra)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.endswith("it is not a regular file. Mend the file first.\n")
    assert (path.stat().st_ino, path.stat().st_mode) == (before.st_ino, before.st_mode)


def test_what_is_no_text_is_not_written(install: Install, home: Path) -> None:
    done = install("cursor", "-e", "A=\udcff")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "'\\udcff': clients' files are UTF-8, and this is not" in done.stderr
    assert files_of(home) == {}


def test_a_folder_that_cannot_be_written_is_one_sentence(install: Install, home: Path) -> None:
    (home / ".gemini").write_text("a file, where a folder should be")
    done = install("gemini")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert ".gemini/settings.json" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")
def test_on_a_terminal_it_asks_for_each_client(environment: dict[str, str], home: Path) -> None:
    import pexpect

    environment |= {"HOME": str(home), "PATH": "", "TERM": "dumb"}
    (home / ".codex").mkdir()
    (home / ".cursor").mkdir()
    code = "from gemma_mcp.cli.main import main; main()"
    child = pexpect.spawn(sys.executable, ["-c", code, "install"], env=environment, cwd=str(home), timeout=60)  # pyright: ignore
    child.expect_exact("Add it to Cursor? [Y/n]: ")
    child.sendline("n")
    child.expect_exact("Add it to Codex? [Y/n]: ")
    child.sendline("")
    child.expect_exact("added")
    child.expect_exact(LINUX["codex"])
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert [os.fspath(path) for path in files_of(home)] == [LINUX["codex"]]


@pytest.mark.parametrize(
    "text",
    [
        'mcp_servers = { db = { command = "x" } } # one line\n',
        '[mcp_servers]\ndb.command = "x"\n',
        'mcp_servers.db.command = "x"\n',
        "[mcp_servers]\n",
        '[[profiles]]\nname = "p"\n\n[mcp_servers."d b"]\ncommand = """\n[mcp_servers.gemma]\n"""\n',
        "# nothing but this\r\n",
    ],
)
def test_codex_servers_may_be_written_in_any_way_that_toml_has(install: Install, home: Path, text: str) -> None:
    path = write(home, "codex", text)
    assert install("codex", "-e", "A=x").returncode == 0
    assert entry_in(path, "codex")["env"] == {"A": "x"}
    path.write_bytes(path.read_bytes() + b"\n# later\n")
    assert install("codex", "-e", "A=y", "--force").returncode == 0
    assert entry_in(path, "codex")["env"] == {"A": "y"}
    assert install("codex", "--remove").returncode == 0
    after = path.read_text()
    assert {"mcp_servers": {}} | tomllib.loads(after) == {"mcp_servers": {}} | tomllib.loads(text)
    assert all(line in after for line in [*text.splitlines(), "# later"])
