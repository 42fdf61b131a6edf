"""Folders of files and git repositories for tests of what the server reads."""

import os
import re
import subprocess
from pathlib import Path

from scripted_engine import Connect, ScriptedEngines, error_of, texts

GIT_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def write(folder: Path, files: dict[str, str]) -> None:
    """Write files by their paths, with the folders they need."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8", newline="")


def git(folder: Path, *arguments: str) -> str:
    """Run git for a test's own ends."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**os.environ, **GIT_ENVIRONMENT, "HOME": str(folder.parent)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return done.stdout


def commit(folder: Path, message: str = "change") -> str:
    """Commit all that is there; the hash."""
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", message)
    return git(folder, "rev-parse", "HEAD").strip()


async def names_read(connect: Connect, engines: ScriptedEngines, *specs: str) -> list[str]:
    """The names of the files that reached the model, in order."""
    await line_of(connect, *specs)
    return re.findall(r'<file path="(.*?)"', engines.prompt)


async def line_of(connect: Connect, *specs: str) -> str:
    """The provenance line of a call that works."""
    async with connect() as client:
        result = await client.call_tool("generate_text", {"prompt": "x", "files": list(specs)})
    assert not result.is_error, result.content
    return texts(result)[1]


async def refusal(connect: Connect, *specs: str, **changes: object) -> str:
    """The error of a call that is refused before any model is asked."""
    async with connect(**changes) as client:
        return error_of(await client.call_tool("generate_text", {"prompt": "x", "files": list(specs)}))
