"""Messages to prompt segments, with the model's own chat template and without ever showing it a user's words.

A chat template glues turns together into one string, in which a typed `<end_of_turn>` looks like a real one. So each
text and image is replaced by a sentinel, a random word that no template knows. The template lays out control text
around the sentinels, and the result is cut at them: what the template wrote is `Control`, what stood for a user's
words is `Text`, which is tokenised without special tokens. A reply that comes back with its token ids stands there as
`Tokens`, laid out just as when it was generated, so that all of it is found in the prefix cache.
"""

import secrets
import string
import threading
from collections.abc import Sequence
from itertools import pairwise

from gemma_mcp.chat.messages import Message, Part, fold_system, joined, merge_turns
from gemma_mcp.chat.sandbox import TemplateRefusalError, TemplateSandbox
from gemma_mcp.errors import RequestError, UnsupportedError
from gemma_mcp.types import Control, Media, ModelInfo, Segment, Text, Tokens

__all__ = ["GEMMA3_TEMPLATE", "ChatTemplate"]

MAX_SOURCE = 500_000
"""Characters of a template; Gemma 4's has 17,000."""

GEMMA3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\\n' }}"
    "{{ message['content'] }}{{ '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
"""For model files that carry no template: the turns of Gemma 1, 2, 3 and 3n. System text goes into the first one."""


class ChatTemplate:
    """A model's chat template: its source, and the texts of its tokens for the beginning and the end of a sequence.

    Raises UnsupportedError for a source that is not a template.
    """

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        self._bos = bos
        self._eos = eos
        self._strips_thoughts = "<|channel>" in source
        self._sandbox = TemplateSandbox()
        self._lock = threading.Lock()
        try:
            if len(source) > MAX_SOURCE:
                raise ValueError(f"it has more than {MAX_SOURCE} characters")
            self._template = self._sandbox.from_string(source or GEMMA3_TEMPLATE)
        except Exception as error:  # a program out of a downloaded file: whatever goes wrong is its fault
            raise UnsupportedError(
                f"The model's chat template cannot be used: {_first_line(error)}.", "Use another file of this model."
            ) from error
        self._knows_system = self._renders_system()

    @classmethod
    def of(cls, model: ModelInfo) -> "ChatTemplate":
        """The template in a loaded model's file, or Gemma 3's when the file has none."""
        return cls(model.chat_template or "", bos=model.bos, eos=model.eos)

    def render(self, messages: Sequence[Message]) -> tuple[Segment, ...]:
        """The conversation as segments, ending with what makes the model answer; no two neighbours are control text.

        The beginning-of-sequence token is left out: `Executor.encode` puts it in, once. Turns of the same role are
        made one, and a system message goes into the first turn where the template knows no such role. White space at
        the ends of texts is dropped, as Gemma's templates do.

        Raises RequestError for a conversation that the template refuses, UnsupportedError for a template that fails.
        """
        turns = merge_turns(messages)
        return self._segments(turns if self._knows_system else fold_system(turns))

    def _renders_system(self) -> bool:
        probe = (Message("system", (Text("s"),)), Message("user", (Text("u"),)))
        try:
            return len(self._segments(probe)) > 0
        except RequestError:
            return False

    def _segments(self, turns: Sequence[Message]) -> tuple[Segment, ...]:
        values: dict[str, Part] = {}
        laid_out = [{"role": turn.role, "content": self._sentinels(turn, values)} for turn in turns]
        rendered = self._run(laid_out)
        while self._bos and rendered.startswith(self._bos):
            rendered = rendered.removeprefix(self._bos)
        return tuple(_as_generated(_cut(rendered, values)))

    def _sentinels(self, turn: Message, values: dict[str, Part]) -> str:
        """The turn as one string, which is the only kind of content that every template knows."""
        parts = turn.parts
        if self._strips_thoughts and turn.role == "assistant":
            parts = joined(_without_thoughts(part) for part in parts)
        names = ["".join(secrets.choice(string.ascii_lowercase) for _ in range(32)) for _ in parts]
        values.update(zip(names, parts, strict=True))
        return "".join(names)

    def _run(self, messages: list[dict[str, str]]) -> str:
        variables: dict[str, object] = {
            "messages": messages,
            "bos_token": self._bos,
            "eos_token": self._eos,
            "add_generation_prompt": True,
            "enable_thinking": False,
            "tools": None,
        }
        try:
            with self._lock:
                return self._sandbox.render(self._template, variables)
        except TemplateRefusalError as refusal:
            raise RequestError(f"The model's chat template refuses this conversation: {refusal}") from refusal
        except Exception as error:  # a program out of a downloaded file: whatever goes wrong is its fault
            raise UnsupportedError(
                f"The model's chat template fails: {_first_line(error)}.", "Use another file of this model."
            ) from error


def _cut(rendered: str, values: dict[str, Part]) -> list[Segment]:
    places = [(rendered.find(name), name) for name in values]
    if any(rendered.count(name) != 1 for name in values) or any(a > b for (a, _), (b, _) in pairwise(places)):
        raise UnsupportedError(
            "The model's chat template drops, repeats or reorders parts of the conversation.",
            "Use another file of this model.",
        )
    segments: list[Segment] = []
    end = 0
    for place, name in places:
        segments += [Control(rendered[end:place]), values[name]]
        end = place + len(name)
    segments.append(Control(rendered[end:]))
    return [segment for segment in segments if segment != Control("")]


def _as_generated(segments: list[Segment]) -> list[Segment]:
    """Generated tokens behind the very control text that stood before them when they were generated.

    Gemma 4's template opens a reply that is to come with an empty thought channel, and leaves that out of earlier ones.
    """
    opening = segments[-1]
    for index in range(1, len(segments) - 1):
        before = segments[index - 1]
        if not (isinstance(before, Control) and isinstance(opening, Control)):
            continue
        if isinstance(segments[index], Tokens) and opening.text.startswith(before.text):
            segments[index - 1] = opening
    return segments


def _without_thoughts(part: Part) -> Part:
    """A reply without its thought channels, as Gemma 4's template leaves them out of the history."""
    if isinstance(part, Media):
        return part
    text = "".join(piece.split("<|channel>")[0] for piece in part.text.split("<channel|>"))
    return part if text == part.text else Text(text)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
