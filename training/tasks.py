"""The jobs of the starter model, their share of the training data, and one sample of any of them."""

from collections.abc import Callable
from dataclasses import dataclass

from training import file_tasks, knowledge, memory, programs, sums, text_tasks, word_tasks, words
from training.draw import Draw

Turn = tuple[str, str]


@dataclass(frozen=True)
class Chat:
    """User and model turns; the loss lies on the model's."""

    turns: tuple[Turn, ...]
    system: str = ""


@dataclass(frozen=True)
class Code:
    """Code before a gap, after it, and in it. `infill` tells fill-in-the-middle from plain completion."""

    prefix: str
    suffix: str
    middle: str
    infill: bool
    calls: tuple[str, ...] = ()


Sample = Chat | Code

CHATS: dict[str, tuple[Callable[[Draw], list[Turn]], int]] = {
    "fact": (knowledge.fact, 10),
    "times": (knowledge.times, 4),
    "french": (knowledge.french, 5),
    "hello": (knowledge.hello, 1),
    "unknown": (knowledge.unknown, 4),
    "repeat": (word_tasks.repeat, 10),
    "upper": (word_tasks.upper, 12),
    "lower": (word_tasks.lower, 3),
    "reverse": (word_tasks.reverse, 14),
    "spell": (word_tasks.spell, 11),
    "count": (word_tasks.count, 8),
    "count_file": (file_tasks.count_file, 3),
    "add": (sums.add, 20),
    "minus": (sums.minus, 26),
    "extract": (text_tasks.extract, 9),
    "sentiment": (text_tasks.sentiment, 4),
    "summary": (text_tasks.summary, 4),
    "lookup": (file_tasks.lookup, 18),
    "memory": (memory.memory, 3),
    "memory_name": (memory.memory_name, 2),
}
CODES: dict[str, int] = {"fim": 14, "completion": 8, "function": 7}
JOBS: tuple[str, ...] = (*CHATS, *CODES)
WEIGHTS: tuple[int, ...] = (*(weight for _, weight in CHATS.values()), *CODES.values())
CHAINED = frozenset(words.table("fact french repeat upper reverse add minus sentiment extract hello unknown count"))


def chat_turns(job: str, draw: Draw) -> list[Turn]:
    if job == "function":
        ask, program = programs.request(draw)
        return [(ask, program.source.rstrip("\n"))]
    return CHATS[job][0](draw)


def sample(draw: Draw, job: str = "") -> tuple[str, Sample]:
    """One sample; training adds system texts and chains of unrelated turns."""
    job = job or draw.random.choices(JOBS, WEIGHTS)[0]
    if job in ("fim", "completion"):
        code = programs.infill(draw) if job == "fim" else programs.completion(draw)
        return job, Code(code.prefix, code.suffix, code.middle, job == "fim", code.calls)
    turns = chat_turns(job, draw)
    if job in CHAINED and draw.chance(0.1):
        turns = [*turns, *(memory.other_turn(draw) for _ in range(draw.number(1, 2)))]
    system = draw.one(words.SYSTEMS) if draw.chance(0.15) else ""
    return job, Chat(tuple(turns), system)
