"""Projects to fire at: canaries around them, under secret names, in what is ignored, and in their history."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CANARY = "canary-7f3e9b1c"
"""Stands in every place that no tool may read."""

SECRETS = (".env", "server.pem", "src/credentials.json", "[x].key", "sub/.ssh/id_rsa", "prod.env")
"""Files in the project whose names say that they are not to be read, in its history, too."""

IGNORED = ("trace-5b1f09d2.log", "build/5b1f09d2.txt", "src/note-5b1f09d2.log")
"""Files that no pattern may match. Whoever names one gets it, so the names are such that nobody guesses them."""

GIT_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    **{f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


@dataclass(frozen=True)
class Tree:
    """A project and a folder beside it, both in one repository, or the project alone in one."""

    project: Path
    outside: Path

    @classmethod
    def plant(cls, folder: Path, *, repository_above: bool = False) -> "Tree":
        """Write the files and make the history."""
        tree = cls(folder / "project", folder / "outside")
        for place in (tree.outside, folder / "project-evil", folder):
            write(place / "canary.txt", CANARY)
        write(tree.project / "src" / "b.py", "print('b')\n")
        tree._make_history(folder if repository_above else tree.project)
        tree._leave_changes()
        for name in IGNORED:
            write(tree.project / name, CANARY)
        if sys.platform != "win32":
            (tree.project / "link.txt").symlink_to(tree.outside / "canary.txt")
            (tree.project / "harmless.txt").symlink_to(".env")
            (tree.project / "folder").symlink_to(tree.outside)
            (tree.project / "src" / "up").symlink_to("..")
            os.mkfifo(tree.project / "fifo")
        return tree

    def _make_history(self, top: Path) -> None:
        """Secrets that come, change on two branches, are merged by hand, are stashed, and are gone in the end."""
        git(top, "init", "--quiet", "--initial-branch", "main")
        write(self.project / ".gitignore", "*.log\nbuild/\n")
        self._commit(top, "first", "one\ntwo\n")
        git(top, "switch", "--quiet", "--create", "side")
        self._commit(top, "side", "one\nside\n")
        git(top, "switch", "--quiet", "main")
        self._commit(top, "second", "one\nmain\n")
        git(top, "tag", "--annotate", "v1", "--message", "tagged")
        git(top, "merge", "--quiet", "--no-commit", "side", fails=True)
        self._commit(top, "merged", "one\nboth\n")
        self._change("stashed", "one\nstashed\n")
        git(top, "stash", "--quiet", "--include-untracked")
        git(top, "rm", "--quiet", *(f":(literal){self.project / name}" for name in SECRETS))
        self._commit(top, "", "one\ntwo\nthree\n")

    def _leave_changes(self) -> None:
        """Some of them staged."""
        self._change("staged", "one\ntwo\nstaged\nthree\n")
        git(self.project, "add", "--all", "--force", ".")
        self._change("unstaged", "one\ntwo\nthree\n")

    def _commit(self, top: Path, version: str, text: str) -> None:
        self._change(version, text)
        git(top, "add", "--all", "--force")
        git(top, "commit", "--quiet", "--message", version or "without secrets")

    def _change(self, version: str, text: str) -> None:
        """New secrets, unless `version` is empty, and a new text."""
        write(self.project / "a.txt", text)
        write(self.outside / "canary.txt", f"{CANARY} {version}\n")
        for name in SECRETS if version else ():
            write(self.project / name, f"{CANARY} {version}\n")


def write(path: Path, text: str) -> None:
    """With the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def git(folder: Path, *arguments: str, fails: bool = False) -> None:
    """Run git to make a history."""
    environ = {**os.environ, **GIT_ENVIRONMENT}
    command = ["git", *arguments]
    subprocess.run(command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=not fails)
