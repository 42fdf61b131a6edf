"""What git knows as text for a prompt: `git:diff`, `git:diff --staged`, `git:show REV:path` and their like.

The grammar is a white list, and git sees nothing that a caller wrote but paths after `--`: revisions are looked up
first and passed on as hashes. Only what lies in the project folder is shown, and no secrets.
"""

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.inputs.git_process import Git
from gemma_mcp.server.inputs.globs import left_out
from gemma_mcp.server.inputs.object_stores import store_elsewhere
from gemma_mcp.server.inputs.path_forms import refuse_form, shorten
from gemma_mcp.server.inputs.paths import PathPolicy

__all__ = ["GIT_PREFIX", "GitText", "read_git"]

GIT_PREFIX = "git:"

REVISION = re.compile(r"[A-Za-z0-9_@][A-Za-z0-9_./@{}^~+-]*")
"""Names, hashes, `HEAD~2`, `main^{tree}`, `HEAD@{1}`; nothing that searches, and no option."""

RANGE = re.compile(r"(.+?)(\.{2,3})(.+)")

FORMS = (
    "git:diff, git:diff --staged, git:diff REV, git:diff REV..REV, git:diff -- PATH, git:show REV:PATH or git:show REV"
)

PLAIN = (
    "--no-ext-diff", "--no-textconv", "--no-color", "--relative", "--ignore-submodules=dirty", "--submodule=short",
    "--src-prefix=a/", "--dst-prefix=b/",
)  # fmt: skip

NAMES = ("--name-only", "-z", "--no-renames", "--no-ext-diff", "--no-relative", "--ignore-submodules=dirty")
"""Not relative to the project folder: of a merge, git would give whole paths all the same."""

MOST_SECRETS = 500
"""Secret files that one diff may leave out; each of them is an argument."""


@dataclass(frozen=True)
class GitText:
    """Bytes that git printed; `name` says where from. `whole_file`: it is one file as it was, not a report."""

    name: str
    data: bytes
    whole_file: bool
    note: str = ""


def read_git(policy: PathPolicy, spec: str, max_bytes: int) -> GitText:
    """What a `git:` entry asks for. Blocks; raises InputRefusedError and UnsupportedError."""
    verb, _, rest = spec.removeprefix(GIT_PREFIX).strip().partition(" ")
    if verb not in ("diff", "show"):
        raise _unknown(spec)
    repository = Repository.open(policy, shorten(spec), max_bytes)
    return repository.show(rest.strip()) if verb == "show" else repository.diff(_words(spec, rest))


@dataclass(frozen=True)
class Repository:
    """The repository that the project folder belongs to. `prefix`: the folder's path in it, "" or with a slash."""

    git: Git
    policy: PathPolicy
    spec: str
    prefix: str

    @classmethod
    def open(cls, policy: PathPolicy, spec: str, max_bytes: int) -> "Repository":
        """Raises InputRefusedError when the folder is in none, or in one whose history lies elsewhere."""
        git = Git.find(policy.project(), spec, max_bytes)
        top = git.text("rev-parse", "--show-toplevel")
        folder = git.text("rev-parse", "--absolute-git-dir")
        common = git.text("rev-parse", "--path-format=absolute", "--git-common-dir")
        _refuse_foreign(policy, spec, Path(top), Path(folder), Path(common))
        return cls(git, policy, spec, git.text("rev-parse", "--show-prefix"))

    def diff(self, words: Sequence[str]) -> GitText:
        """A difference of the working tree, the index or revisions."""
        staged, revisions, paths = self._parse_diff(words)
        asked = ["diff", *(["--cached"] if staged else []), *self._hashes(revisions)]
        return self._report(asked, paths, "there are no changes")

    def show(self, rest: str) -> GitText:
        """A file as it was in a revision, or what a commit changed."""
        revision, colon, path = rest.partition(":")
        commit = self._hash(revision)
        if colon:
            return self._file(commit, path)
        return self._report(["show", "--format=medium", commit], [], "it changes nothing in the project folder")

    def _parse_diff(self, words: Sequence[str]) -> tuple[bool, list[str], list[str]]:
        split = words.index("--") if "--" in words else len(words)
        before, paths = words[:split], [self._inside(path) for path in words[split + 1 :]]
        revisions = [word for word in before if word not in ("--staged", "--cached")]
        staged = len(revisions) < len(before)
        if len(revisions) > (1 if staged else 2) or any(word.startswith("-") for word in revisions):
            raise _unknown(self.spec)
        return staged, revisions, paths

    def _hashes(self, revisions: Sequence[str]) -> list[str]:
        """Two revisions may stand in one word: `a..b`, or `a...b`, which begins where they parted."""
        match = RANGE.fullmatch(revisions[0]) if len(revisions) == 1 else None
        if match is None:
            return [self._hash(revision) for revision in revisions]
        first, last = self._hash(match[1]), self._hash(match[3])
        return [self.git.text("merge-base", first, last) if match[2] == "..." else first, last]

    def _hash(self, revision: str) -> str:
        if not REVISION.fullmatch(revision) or ".." in revision or "{/" in revision:
            raise _unknown(self.spec)
        try:
            return self.git.text("rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}")
        except InputRefusedError:
            raise InputRefusedError(
                self.spec, f"there is no commit {revision!r}", "Name a branch, tag or hash."
            ) from None

    def _report(self, asked: Sequence[str], paths: Sequence[str], nothing: str) -> GitText:
        where = ["--", *(f":(literal){path}" for path in paths or ["."])]
        whole = self.git.names(*asked, *(["--format="] if asked[0] == "show" else []), *NAMES, *where)
        names = [name.removeprefix(self.prefix) for name in whole]
        secret = self.policy.secrets.among(dict.fromkeys(names))
        if len(secret) > MOST_SECRETS:
            raise InputRefusedError(self.spec, f"{len(secret):,} secret files are in it", "Name paths after '--'.")
        if not set(names) - set(secret):
            raise InputRefusedError(self.spec, nothing if not secret else "all of it is secret by its name")
        without = [f":(top,exclude,literal){self.prefix}{name}" for name in secret]
        data = self.git.run(*asked, "--patch", *PLAIN, *where, *without)
        return GitText(self.spec, data, whole_file=False, note=left_out(secret))

    def _file(self, commit: str, path: str) -> GitText:
        inside = self._inside(path)
        if self.policy.secrets.match(inside):
            raise InputRefusedError(self.spec, "by its name it holds secrets", "Do without it.")
        entry = self.git.names("ls-tree", "-z", "--full-tree", commit, "--", f":(literal){self.prefix}{inside}")
        mode, kind, blob = entry[0].partition("\t")[0].split() if entry else ("", "", "")
        if kind != "blob" or not mode.startswith("100"):
            why = "it is a folder, a link or a submodule there" if entry else "there is no such file in that revision"
            raise InputRefusedError(self.spec, why, "Paths are relative to the project folder.")
        return GitText(
            self.spec.removeprefix(GIT_PREFIX + "show ").strip(), self.git.run("cat-file", "blob", blob), True
        )

    def _inside(self, path: str) -> str:
        """A path in the project folder as git writes it, told by its letters alone: it need not exist any more."""
        refuse_form(path)
        project = self.policy.project()
        whole = Path(os.path.normpath(project / path))
        if not whole.is_relative_to(project):
            raise InputRefusedError(self.spec, f"{shorten(path)} lies outside the project folder")
        return whole.relative_to(project).as_posix()


def _refuse_foreign(policy: PathPolicy, spec: str, top: Path, folder: Path, common: Path) -> None:
    """A `.git` file or link may point anywhere; it is followed to a linked worktree's, and into the roots."""
    top, folder, common = top.resolve(), folder.resolve(), common.resolve()
    if not policy.project().is_relative_to(top):
        raise InputRefusedError(spec, f"its working tree is {top}, which does not hold the project folder")
    own = folder == common == top / ".git"
    linked = folder.parent == common / "worktrees" and _first_line(folder / "gitdir") == str(top / ".git")
    roots = policy.roots()
    if not (own or linked or all(any(path.is_relative_to(root) for root in roots) for path in (folder, common))):
        raise _foreign(spec, common)
    if (elsewhere := store_elsewhere(common / "objects", (common, *roots))) is not None:
        raise _foreign(spec, elsewhere)


def _foreign(spec: str, where: Path) -> InputRefusedError:
    hint = "Add that folder to server.roots in the configuration to allow it."
    return InputRefusedError(spec, f"the repository's history lies outside the project folder, in {where}", hint)


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError):
        return ""


def _words(spec: str, text: str) -> list[str]:
    """Split as a shell would, so that a path with a space can be quoted."""
    try:
        return shlex.split(text.replace("\\", "/") if os.name == "nt" else text)
    except ValueError:
        raise _unknown(spec) from None


def _unknown(spec: str) -> InputRefusedError:
    return InputRefusedError(shorten(spec), "it is not understood", f"Known forms: {FORMS}.")
