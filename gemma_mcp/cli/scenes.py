"""What `gemma-mcp demo` asks, and by what a right answer is known. The starter model can answer all of it."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

__all__ = ["Scene", "prepare", "scenes"]

STORY = (
    "Gregory went to the market. It was a windy morning. There he found a red kite. "
    "In the end Gregory was very happy.\n"
)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string"}},
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
SIDE = 224
"""Pixels of the picture, which is drawn on the spot."""


@dataclass(frozen=True)
class Scene:
    """One call of a tool. `expected` says the right answer in words; `session`: it goes on in the one before it."""

    title: str
    tool: str
    arguments: Mapping[str, Any]
    expected: str
    is_right: Callable[[str], bool] = field(repr=False)
    session: bool = False


def prepare(folder: Path) -> None:
    """Write the files that the scenes speak of."""
    (folder / "story.txt").write_text(STORY, encoding="utf-8")
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    inset = SIDE // 4
    ImageDraw.Draw(picture).ellipse((inset, inset, SIDE - inset, SIDE - inset), fill=(220, 30, 30))
    picture.save(folder / "picture.png")


def scenes() -> list[Scene]:
    """The calls, in order; each tool at least once."""
    ask: dict[str, Any] = {"temperature": 0}
    return [
        Scene(
            "a question",
            "generate_text",
            ask | {"prompt": "What is the capital of France?"},
            "Paris",
            _says("paris"),
        ),
        Scene(
            "text to JSON, held to a schema",
            "generate_text",
            ask
            | {
                "prompt": "Extract name, age and city as JSON: Gregory is 31 years old and lives in Springfield.",
                "json_schema": PERSON,
            },
            "Gregory, 31, Springfield",
            _is_json({"name": "Gregory", "age": 31, "city": "Springfield"}),
        ),
        Scene(
            "a file, read by the server: its text never enters the big model's context",
            "generate_text",
            ask | {"prompt": "Summarize in one sentence.", "files": ["story.txt"]},
            "one sentence about Gregory's kite",
            _says("gregory", "kite"),
        ),
        Scene(
            "code at the cursor",
            "complete_code",
            {"prefix": "def add(a, b):\n    return ", "suffix": "\n", "language": "python", "max_tokens": 16},
            "a + b",
            lambda answer: re.sub(r"\s", "", answer) in ("a+b", "b+a"),
        ),
        Scene(
            "a picture, drawn a moment ago: a red circle on white",
            "analyze_image",
            {"images": ["picture.png"], "question": "What shape is this?"},
            "a circle",
            _says("circle"),
        ),
        Scene(
            "the same picture again",
            "analyze_image",
            {"images": ["picture.png"], "question": "What colour is the circle?"},
            "red",
            _says("red"),
        ),
        Scene("a conversation", "chat", {"message": "My name is Barnaby."}, "Barnaby", _says("barnaby")),
        Scene("its next turn", "chat", {"message": "What is my name?"}, "Barnaby", _says("barnaby"), session=True),
    ]


def _says(*words: str) -> Callable[[str], bool]:
    return lambda answer: all(re.search(rf"\b{word}\b", answer.lower()) for word in words)


def _is_json(wanted: object) -> Callable[[str], bool]:
    def check(answer: str) -> bool:
        try:
            return json.loads(answer) == wanted
        except ValueError:
            return False

    return check
