"""What the prompts tell the big model: which call does the job, and what the answer must look like.

The point of each is that contents stay out of the big model's context: it is told not to read them itself, and where a
small model is likely to be wrong, which few lines to check.
"""

import json
import re
from collections.abc import Callable, Mapping

__all__ = ["Given", "commit_message", "describe_image", "explain_log", "review_diff", "summarise_files"]

Given = Mapping[str, str]
"""The arguments that were given, none of them blank."""

PATHS = re.compile(r'"([^"]+)"|([^\s,]+)')
LINES = re.compile(r":\d+(-\d+)?$")

MOST_CALLS = 8
"""Paths that get a call each; more go into one call, or the client would be busy with calls alone."""

CHANGES = {
    "staged": "git:diff --staged",
    "--staged": "git:diff --staged",
    "cached": "git:diff --staged",
    "unstaged": "git:diff",
    "working": "git:diff",
}
"""What `changes` may say, and the source that it stands for."""

TOO_LONG = "If it says that the text is too long, do what that message offers, and tell the user what was left out."


def commit_message(given: Given) -> str:
    """The message of what is staged; `style`: the house style."""
    style = f" House style, which comes before these rules: {given['style']}." if "style" in given else ""
    call = _call(
        "generate_text",
        given,
        prompt="Write the git commit message for this diff. First line: what the change does, in the imperative, at "
        "most 72 characters, no full stop. Then an empty line. Then at most five lines of at most 72 characters on "
        "what changed and why, as far as the diff shows it. Invent no reasons, names or ticket numbers. Reply with the "
        f"message alone: no quotes, no fences.{style}",
        files=["git:diff --staged"],
        temperature=0,
        max_tokens=400,
    )
    return f"""\
Write a commit message for what is staged. Do not read the diff yourself: Gemma reads it on the user's machine, and \
its text stays out of your context.

1. {call}
2. If the tool says that nothing is staged, tell the user so and stop. {TOO_LONG}
3. Mend the form if it needs mending (first line in the imperative and at most 72 characters, empty second line), but \
add nothing that the message does not say.

Answer with the message in one code block and nothing else. Do not commit unless the user asks for it."""


def summarise_files(is_file: Callable[[str], bool], given: Given) -> str:
    """Summaries of the files `paths`, with regard to `focus`.

    More paths may have slipped into `focus`: whoever types several in a row need not know that commas are due.
    """
    paths, focus = _paths(given["paths"]), given.get("focus", "")
    if focus and all("*" in word or is_file(LINES.sub("", word)) for word in _paths(focus)):
        paths, focus = [*paths, *_paths(focus)], ""
    task = (
        "Summarise each file for a developer who has not read it. For each: its path as a heading; one sentence that "
        "says what it is for; at most five short bullets with what matters, names spelt as they stand there. Say only "
        "what the text says." + (f" Pay attention to this above all: {focus}." if focus else "")
    )
    groups = [[path] for path in paths] if len(paths) <= MOST_CALLS else [paths]
    calls = [_call("generate_text", given, prompt=task, files=group, temperature=0, max_tokens=800) for group in groups]
    return f"""\
Summarise files without reading them yourself: Gemma reads them on the user's machine, and their text stays out of \
your context.

1. {_all_at_once(calls)}
2. If a path is refused, tell the user which and why. {TOO_LONG}

Answer with the summaries, one heading for each file, shortened where they repeat themselves. Mark what contradicts \
something you know; open a file only if the user asks for more than the summaries say."""


def explain_log(given: Given) -> str:
    """The first cause in the log `path`, or an answer to `question`."""
    question = given.get("question", "What went wrong first, and why?")
    call = _call(
        "generate_text",
        given,
        prompt=f"This is a log. {question} Later errors often follow from an earlier one: look for the first. Reply "
        "with four lines and nothing else. `Cause:` one sentence. `Evidence:` up to three lines of the log, copied "
        "exactly. `First seen:` its time stamp, or the words before it. `Next:` what to check or change. Where the log "
        "does not tell, write `not in this log`.",
        files=[given["path"].strip('"')],
        temperature=0,
        max_tokens=500,
    )
    return f"""\
Explain a log without reading it yourself: Gemma reads it on the user's machine, and its text stays out of your context.

1. {call}
2. {TOO_LONG} For a log, its last lines or those around the first error are the ones to name: `path:first-last`.
3. Check the evidence: search the log for one of the quoted lines, and read at most 20 lines around it. If the line is \
not there, say that the explanation could not be confirmed.

Answer with the cause in one sentence, the lines that prove it, and what to do next. Say what is proved and what is a \
guess."""


def describe_image(given: Given) -> str:
    """What is on `images`, or an answer to `question`."""
    images = _paths(given["images"])
    question = given.get("question", "Describe what is on this image: kind, main things, any text word for word.")
    call = _call("analyze_image", given, images=images, question=question)
    return f"""\
Tell the user what is on {"an image" if len(images) == 1 else "some images"}. Do not open {
        "it" if len(images) == 1 else "them"
    } yourself: Gemma looks at the pixels on the user's machine, and they stay out of your context.

1. {call}
2. If the tool refuses a file, tell the user which and why.

Answer with what Gemma saw, in at most five sentences, and quote text that it read as it stands. It is a small model: \
say so where numbers or small print matter."""


def review_diff(is_file: Callable[[str], bool], given: Given) -> str:
    """Defects in `changes`, with regard to `focus`."""
    source = _source(given.get("changes", "staged"), is_file)
    focus = f" Look for this above all: {given['focus']}." if "focus" in given else ""
    call = _call(
        "generate_text",
        given,
        prompt="Review this diff. List defects that it brings in: wrong logic, cases that are not handled, callers "
        "that break, leaks, holes in security. At most eight, worst first, one line each: `path:line | high, medium or "
        "low | what is wrong | how to mend it`. No praise, no summary, no matters of taste. If there is none, reply "
        f"`No findings.`{focus}",
        files=[source],
        temperature=0,
        max_tokens=800,
    )
    return f"""\
Review a diff without reading all of it yourself: Gemma reads it on the user's machine and names suspicious places; \
you judge them.

1. {call}
2. If the tool says that there are no changes, tell the user so and stop. {TOO_LONG}
3. Check every finding: read only the lines that it names and some ten around them. Drop what is wrong; Gemma is a \
small model and often is.

Answer with the findings that hold, worst first, each with `path:line`, what is wrong, and how to mend it; then one \
line that says how many you dropped. If none holds, say so, and say that only suspicious places were read."""


def _source(changes: str, is_file: Callable[[str], bool]) -> str:
    """A known word, a source as tools take it, a file that holds a diff, or else a revision or a range of them."""
    if known := CHANGES.get(changes.lower()):
        return known
    return changes if changes.startswith("git:") or is_file(changes) else f"git:diff {changes}"


def _call(tool: str, given: Given, **arguments: object) -> str:
    """The sentence that asks for one call. Arguments are JSON, so nothing in them can be taken for instructions."""
    named = arguments | ({"model": given["model"]} if "model" in given else {})
    text = json.dumps(named, indent=2, ensure_ascii=False)
    return f"Call the tool `{tool}` of the server gemma-mcp with exactly these arguments:\n```json\n{text}\n```"


def _all_at_once(calls: list[str]) -> str:
    if len(calls) == 1:
        return calls[0]
    return f"Make these {len(calls)} calls at the same time; they share the model.\n\n" + "\n\n".join(calls)


def _paths(text: str) -> list[str]:
    """Paths separated by commas or spaces; one with a space in it stands in double quotes."""
    return [quoted or bare for quoted, bare in PATHS.findall(text)]
