"""Prompts for common jobs, as clients list them; what they say is in `jobs.py`.

Arguments may be positional, as in Claude Code (`/mcp__gemma__summarise_files src/*.py`): so what matters most comes
first, and several paths may stand in one argument, separated by commas.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

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


class JobPrompt(Prompt):
    """The SDK's prompt, except that what is wrong with its arguments is said in a sentence."""

    write: Callable[[Given], str] = Field(exclude=True)

    @classmethod
    def make(
        cls, name: str, title: str, description: str, arguments: list[PromptArgument], write: Callable[[Given], str]
    ) -> "JobPrompt":
        """`write` gets the arguments that were given and are not blank."""
        return cls(
            name=name,
            title=title,
            description=description,
            arguments=arguments,
            fn=write,
            context_kwarg=None,
            write=write,
        )

    async def render(self, arguments: dict[str, Any] | None, context: Context[Any, Any]) -> list[Message]:
        """The message for the big model. Raises MCPError for arguments that are missing, unknown or too long."""
        given = {name: str(value).strip() for name, value in (arguments or {}).items()}
        known = self.arguments or []
        if unknown := sorted(given.keys() - {argument.name for argument in known}):
            raise _refused(f"The prompt {self.name} has no argument `{unknown[0][:100]}`.", known)
        for argument in known:
            if argument.required and not given.get(argument.name):
                raise _refused(f"The prompt {self.name} needs `{argument.name}`: {argument.description}", known)
            if len(given.get(argument.name, "")) > LONGEST_ARGUMENT:
                raise _refused(f"`{argument.name}` has more than {LONGEST_ARGUMENT:,} characters.", known)
        return [UserMessage(self.write({name: value for name, value in given.items() if value}))]


def _refused(sentence: str, known: list[PromptArgument]) -> MCPError:
    return MCPError(INVALID_PARAMS, f"{sentence} Arguments: {', '.join(one.name for one in known)}.")


def job_prompts(is_file: Callable[[str], bool]) -> list[JobPrompt]:
    """The prompts. `is_file`: whether a path names something that may be read."""
    return [
        JobPrompt.make(
            "commit_message",
            "Commit message from the staged diff",
            "Have Gemma read what is staged and write the commit message.",
            [PromptArgument(name="style", description="House style, such as 'conventional' or 'german'."), MODEL],
            commit_message,
        ),
        JobPrompt.make(
            "summarise_files",
            "Summarise files",
            "Have Gemma read files and bring back their gist.",
            [
                PromptArgument(
                    name="paths",
                    description="Files to read: paths, globs or line ranges (a.log:1-400), separated by commas.",
                    required=True,
                ),
                PromptArgument(name="focus", description="What to look for in them; another path is read, too."),
                MODEL,
            ],
            partial(summarise_files, is_file),
        ),
        JobPrompt.make(
            "explain_log",
            "Explain an error log",
            "Have Gemma find the first cause in a log and prove it with lines.",
            [
                PromptArgument(
                    name="path", description="The log, or some of its lines: build.log:1-400.", required=True
                ),
                PromptArgument(name="question", description="What you want to know of it."),
                MODEL,
            ],
            explain_log,
        ),
        JobPrompt.make(
            "describe_image",
            "Describe an image",
            "Have Gemma look at images and say what is on them.",
            [
                PromptArgument(name="images", description="Image files, separated by commas.", required=True),
                PromptArgument(name="question", description="What you want to know of them."),
                MODEL,
            ],
            describe_image,
        ),
        JobPrompt.make(
            "review_diff",
            "Review a diff",
            "Have Gemma look for defects in a diff, and check what it finds.",
            [
                PromptArgument(
                    name="changes",
                    description="'staged' (the default), 'unstaged', or a source such as git:show HEAD:app.py.",
                ),
                PromptArgument(name="focus", description="What to look for above all, such as 'security'."),
                MODEL,
            ],
            review_diff,
        ),
    ]
