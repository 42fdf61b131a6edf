"""Prompts for common jobs, as clients list them; what they say is in `jobs.py`.

Arguments may be positional. Claude Code 2.1.329 splits what was typed (`/mcp__gemma__summarise_files src/*.py`) at
spaces, gives one word to each argument in their order, and drops the rest. So what matters most comes first, several
paths may stand in one argument, and words of a sentence that strayed into other arguments are put together again.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio.to_thread
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts.base import Message, Prompt, PromptArgument, UserMessage
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS
from pydantic import Field

from gemma_mcp.server.jobs import Given, commit_message, describe_image, explain_log, review_diff, summarise_files

__all__ = ["JobPrompt", "job_prompts"]

LONGEST_ARGUMENT = 4000
"""Characters; an argument is a path or a sentence."""

MODEL = PromptArgument(name="model", description="Model to use; leave it out for the configured one.")

CUT_AT_SPACES = """

(Some clients cut arguments at spaces. If the command that the user typed holds more words than the {free} above, use \
all of them in its place.)"""


class JobPrompt(Prompt):
    """The SDK's prompt, except that what is wrong with its arguments is said in a sentence.

    `free` names the argument that takes a sentence; it stands before `model`, which is the last one.
    """

    write: Callable[[Given], str] = Field(exclude=True)
    is_model: Callable[[str], bool] = Field(exclude=True)
    free: str = Field(exclude=True)

    async def render(self, arguments: dict[str, Any] | None, context: Context[Any, Any]) -> list[Message]:
        """The message for the big model. Raises MCPError for arguments that are missing, unknown or too long."""
        given = {name: text for name, value in (arguments or {}).items() if (text := str(value).strip())}
        self._check(given, (arguments or {}).keys())
        typed_in_words = self.free in given and " " not in given[self.free]
        if typed_in_words and "model" in given and not await anyio.to_thread.run_sync(self.is_model, given["model"]):
            given[self.free] += f" {given.pop('model')}"
        text = self.write(given)
        return [UserMessage(text + CUT_AT_SPACES.format(free=self.free) if typed_in_words else text)]

    def _check(self, given: Given, named: Collection[str]) -> None:
        known = self.arguments or []
        if unknown := sorted(set(named) - {argument.name for argument in known}):
            raise _refused(f"The prompt {self.name} has no argument `{unknown[0][:100]}`.", known)
        for argument in known:
            if argument.required and argument.name not in given:
                raise _refused(f"The prompt {self.name} needs `{argument.name}`: {argument.description}", known)
            if len(given.get(argument.name, "")) > LONGEST_ARGUMENT:
                raise _refused(f"`{argument.name}` has more than {LONGEST_ARGUMENT:,} characters.", known)


def _refused(sentence: str, known: list[PromptArgument]) -> MCPError:
    return MCPError(INVALID_PARAMS, f"{sentence} Arguments: {', '.join(one.name for one in known)}.")


@dataclass(frozen=True)
class Job:
    """A prompt to be: how it is listed, what writes its message, and its arguments but `model`."""

    name: str
    title: str
    description: str
    write: Callable[[Given], str]
    arguments: tuple[PromptArgument, ...]

    def prompt(self, is_model: Callable[[str], bool]) -> JobPrompt:
        """As the SDK lists it."""
        return JobPrompt(
            name=self.name,
            title=self.title,
            description=self.description,
            arguments=[*self.arguments, MODEL],
            fn=self.write,
            context_kwarg=None,
            write=self.write,
            is_model=is_model,
            free=self.arguments[-1].name,
        )


def job_prompts(is_file: Callable[[str], bool], is_model: Callable[[str], bool]) -> list[JobPrompt]:
    """The prompts. `is_file`: whether a path names something that may be read; `is_model`: whether a model can be asked
    for by a name. The latter may block for some milliseconds.
    """
    return [job.prompt(is_model) for job in _jobs(is_file)]


def _jobs(is_file: Callable[[str], bool]) -> tuple[Job, ...]:
    return (
        Job(
            "commit_message",
            "Commit message from the staged diff",
            "Have Gemma read what is staged and write the commit message.",
            commit_message,
            (_argument("style", "House style, such as 'conventional' or 'german'."),),
        ),
        Job(
            "summarise_files",
            "Summarise files",
            "Have Gemma read files and bring back their gist.",
            partial(summarise_files, is_file),
            (
                _argument(
                    "paths", "Files to read: paths, globs, line ranges (a.log:1-400), separated by commas.", True
                ),
                _argument("focus", "What to look for in them; more paths are read, too."),
            ),
        ),
        Job(
            "explain_log",
            "Explain an error log",
            "Have Gemma find the first cause in a log and prove it with lines.",
            explain_log,
            (
                _argument("path", "The log, or some of its lines: build.log:1-400.", True),
                _argument("question", "What you want to know of it."),
            ),
        ),
        Job(
            "describe_image",
            "Describe an image",
            "Have Gemma look at images and say what is on them.",
            describe_image,
            (
                _argument("images", "Image files, separated by commas.", True),
                _argument("question", "What you want to know of them."),
            ),
        ),
        Job(
            "review_diff",
            "Review a diff",
            "Have Gemma look for defects in a diff, and check what it finds.",
            partial(review_diff, is_file),
            (
                _argument("changes", "'staged' (the default), 'unstaged', a range such as main..HEAD, or a file."),
                _argument("focus", "What to look for above all, such as 'security'."),
            ),
        ),
    )


def _argument(name: str, description: str, required: bool = False) -> PromptArgument:
    return PromptArgument(name=name, description=description, required=required)
