"""Where the results of a call go: a file of the project that the call named, or one in the user's own folder."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.inputs.path_forms import printable, refuse_form
from gemma_mcp.server.inputs.paths import PathPolicy
from gemma_mcp.server.maps.folder import ResultFolder
from gemma_mcp.server.maps.job import Job
from gemma_mcp.server.output import OutputFile

__all__ = ["Target", "find_target"]


@dataclass(frozen=True)
class Target:
    """A file of results. `shown` is its name for the caller; `afresh` says that what is there is to be replaced."""

    path: Path
    shown: str
    private: bool
    afresh: bool = False


def find_target(
    folder: ResultFolder, policy: PathPolicy, job: Job, specs: Sequence[str], output: str | None, *, overwrite: bool
) -> Target:
    """The file of a job. Blocks. Raises InputRefusedError for an `output` that is not allowed, ConfigError when the
    user's own folder cannot be used.
    """
    if output is None:
        path = folder.file(f"{job.id}-{_files_id(policy, specs)}")
        return Target(path, str(path), private=True)
    path = OutputFile(policy, _in_folder(policy, job, output), overwrite=True).locate()
    shown = printable(path.relative_to(policy.project()).as_posix())
    return Target(path, shown, private=False, afresh=overwrite)


def _in_folder(policy: PathPolicy, job: Job, output: str) -> str:
    """A file in the folder that is named, else the file itself."""
    refuse_form(output)
    try:
        is_folder = (policy.project() / output).is_dir()
    except (OSError, ValueError):
        is_folder = False
    return f"{output.rstrip('/')}/map-{job.id}.jsonl" if is_folder else output


def _files_id(policy: PathPolicy, specs: Sequence[str]) -> str:
    """The same for the same call in the same project."""
    try:
        project = str(policy.project())
    except InputRefusedError:
        project = ""
    text = json.dumps([project, *specs], ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:8]
