"""Held-out questions with a check for every reply, for any way to reach the model.

`items(job, count, seed)` yields questions that training never saw: names, numbers, wordings and
layouts of the held-out side of the split. An item holds messages, code before and after a gap, or pictures;
`check(reply)` judges the answer. Code is run and compared by what it does. Needs the standard library and
Pillow only.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

from training import picture_tasks, tasks
from training.draw import Draw
from training.pictures import Scene, render, scene

SECONDS = 10.0
RUNNER = """
import contextlib, io, json, sys
def outcome(source, calls):
    space, printed, values = {}, io.StringIO(), []
    with contextlib.redirect_stdout(printed):
        try:
            exec(source, space)
            values = [repr(eval(call, space)) for call in calls]
        except BaseException as error:
            values.append(type(error).__name__)
    return values, printed.getvalue()
task = json.load(sys.stdin)
print(json.dumps([outcome(source, task["calls"]) for source in task["sources"]]))
"""


def same_behaviour(source: str, reference: str, calls: tuple[str, ...]) -> bool:
    """Run both programs in a process of their own; compare values, errors and what they print."""
    task = json.dumps({"sources": [source, reference], "calls": list(calls)})
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", RUNNER], input=task, capture_output=True, text=True, timeout=SECONDS
        )
        got, expected = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return False
    return got == expected


def without_fence(reply: str) -> str:
    found = re.search(r"```(?:python)?\n(.*?)```", reply, re.DOTALL)
    return found.group(1) if found else reply


@dataclass(frozen=True)
class Item:
    """One question. `form`: chat, infill (prefix and suffix) or completion (prefix)."""

    job: str
    form: str
    reference: str
    messages: tuple[dict[str, str], ...] = ()
    images: tuple[Image.Image, ...] = ()
    prefix: str = ""
    suffix: str = ""
    calls: tuple[str, ...] = ()

    def check(self, reply: str) -> bool:
        """Is the reply right? Text exactly, JSON by value, code by what it does."""
        if self.calls or self.form != "chat":
            gap = without_fence(reply) if self.form == "chat" else reply
            parts = [f"{self.prefix}{text}{self.suffix}" for text in (gap, self.reference)]
            return same_behaviour(parts[0], parts[1], self.calls)
        if self.reference.startswith("{"):
            return _json(reply) == _json(self.reference)
        return reply.strip() == self.reference

    def content(self, image_parts: list[dict]) -> list[dict]:
        """The messages in the OpenAI form, with the given image parts in the first user message."""
        messages: list[dict] = [dict(message) for message in self.messages]
        if image_parts:
            first = next(message for message in messages if message["role"] == "user")
            first["content"] = [*image_parts, {"type": "text", "text": first["content"]}]
        return messages


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _messages(turns: tuple[tuple[str, str], ...], system: str = "") -> tuple[dict[str, str], ...]:
    """All turns; the last reply is left out."""
    out = [{"role": "system", "content": system}] if system else []
    for ask, reply in turns:
        out += [{"role": "user", "content": ask}, {"role": "assistant", "content": reply}]
    return tuple(out[:-1])


def _text_item(job: str, draw: Draw) -> Item:
    if job in ("fim", "completion"):
        _, code = tasks.sample(draw, job)
        assert isinstance(code, tasks.Code)
        form = "infill" if code.infill else "completion"
        return Item(job, form, code.middle, prefix=code.prefix, suffix=code.suffix, calls=code.calls)
    if job == "function":
        ask, program = tasks.programs.request(draw)
        return Item(job, "chat", program.source, _messages(((ask, ""),)), calls=program.calls)
    turns = tuple(tasks.chat_turns(job, draw))
    return Item(job, "chat", turns[-1][1], _messages(turns))


def _one_picture(draw: Draw, job: str) -> tuple[tuple[Scene, ...], picture_tasks.Turn]:
    """A scene that has a question of this job."""
    kind = job if job in ("number", "word") else "shapes"
    while True:
        made = scene(draw, kind)
        if kind != "shapes":
            return (made,), draw.one(picture_tasks.reading(draw, made))
        if turns := picture_tasks.SHAPE_JOBS[job](draw, made):
            return (made,), draw.one(turns)


def _two_pictures(draw: Draw, job: str) -> tuple[tuple[Scene, ...], picture_tasks.Turn]:
    """Two scenes for a question of this job; "the same?" is yes in half of the cases."""
    wanted = draw.one(["Yes.", "No."])
    while True:
        scenes = (scene(draw), scene(draw))
        lone = all(len(made.things) == 1 for made in scenes)
        if job in ("same", "which") and not lone:
            continue
        if job == "which" and scenes[0].things[0].shape == scenes[1].things[0].shape:
            continue
        turn = picture_tasks.both(draw, scenes, job)
        if job != "same" or turn[1] == wanted:
            return scenes, turn


def _picture_item(job: str, draw: Draw) -> Item:
    name = job.partition("_")[2]
    scenes, (ask, reply) = _two_pictures(draw, name) if job.startswith("images_") else _one_picture(draw, name)
    return Item(job, "chat", reply, _messages(((ask, ""),)), tuple(render(made) for made in scenes))


TEXT_JOBS: tuple[str, ...] = tasks.JOBS
IMAGE_JOBS: tuple[str, ...] = tuple(
    [f"image_{job}" for job in (*picture_tasks.SHAPE_JOBS, "number", "word")]
    + [f"images_{job}" for job in ("pick", "which", "same", "describe_both")]
)
JOBS: tuple[str, ...] = TEXT_JOBS + IMAGE_JOBS


def items(job: str, count: int, seed: int) -> Iterator[Item]:
    """Held-out items, all different while the supply lasts."""
    draw = Draw(seed, held=True)
    make: Callable[[str, Draw], Item] = _picture_item if job in IMAGE_JOBS else _text_item
    seen: set[object] = set()
    tries, limit = 0, 50 * count
    while count:
        item = make(job, draw)
        key = (str(item.messages), item.prefix, item.suffix)
        tries += 1
        if item.images or key not in seen or tries > limit:
            seen.add(key)
            count -= 1
            yield item
