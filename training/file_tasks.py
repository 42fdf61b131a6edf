"""Work on files: look something up, count words."""

from training import words
from training.draw import Draw
from training.text_tasks import article, file_block, padded, path
from training.word_tasks import count_reply, count_text

Turn = tuple[str, str]

SETTINGS = words.table("port host timeout size name width height color level limit mode theme user path")


def count_file(draw: Draw) -> list[Turn]:
    text = count_text(draw)
    ask = draw.one(
        [
            "Count the words in this file.",
            "How many words are in this file?",
            "Count the words.",
            "How many words are in the text?",
        ]
    )
    return [(f"{file_block(path(draw), text)}\n\n{ask}", count_reply(text))]


def lookup(draw: Draw) -> list[Turn]:
    """A question about people or settings that a file lists."""
    return _people(draw) if draw.chance(0.65) else _settings(draw)


def _people(draw: Draw) -> list[Turn]:
    names = draw.names(draw.number(1, 4))
    facts = {name: (draw.number(1, 99), draw.city(), draw.one(words.JOBS)) for name in names}
    shape = draw.one(
        [
            "{n} is {a} years old and lives in {c}.",
            "{n}: age {a}, city {c}, job {j}",
            "{n}, {a}, {c}, {j}",
            "{n} ({a}) is {k} in {c}.",
            "{n} is {k} from {c}. {n} is {a} years old.",
            "- {n}: {a} years old, {c}, {j}",
        ]
    )
    lines = [shape.format(n=name, a=age, c=city, j=job, k=article(job)) for name, (age, city, job) in facts.items()]
    text = padded(draw, "\n".join(lines) if draw.chance(0.8) or "." not in shape else " ".join(lines))
    name = draw.one(names)
    age, city, job = facts[name]
    questions = [
        (
            f"How old is {name}?|What is {name}'s age?|What is the age of {name}?",
            f"{name} is {age} years old.",
        ),
        (
            f"Where does {name} live?|In which city is {name}?|What is {name}'s city?",
            f"{name} lives in {city}.",
        ),
        (f"Who lives in {city}?|Who is from {city}?", f"{name} lives in {city}."),
        (
            f"What is {name}'s job?|What does {name} do?|What is the job of {name}?",
            f"{name} is {article(job)}.",
        ),
    ]
    if sum(other[1] == city for other in facts.values()) > 1:
        del questions[2]
    if "{j}" not in shape and "{k}" not in shape:
        del questions[-1]
    asks, reply = draw.one(questions)
    return [(_about(draw, text, draw.one(asks.split("|"))), reply)]


def _about(draw: Draw, text: str, question: str) -> str:
    """The question after its file, sometimes with another file that does not matter."""
    if draw.chance(0.12):
        blocks = [file_block(path(draw), text), file_block(path(draw), draw.filler(1, 3))]
        draw.random.shuffle(blocks)
        return "\n\n".join([*blocks, question])
    if draw.chance(0.7):
        return f"{file_block(path(draw), text)}\n\n{question}"
    return draw.one([f"{text}\n\n{question}", f"{text}\n{question}", f"{question}\n\n{text}"])


def _settings(draw: Draw) -> list[Turn]:
    keys: list[str] = []
    wanted = draw.number(2, 5)
    while len(keys) < wanted:
        key = draw.one(SETTINGS)
        key = key if draw.chance(0.7) else draw.word()
        if key not in keys:
            keys.append(key)
    values = {key: str(draw.number(0, 9999)) if draw.chance(0.6) else draw.word() for key in keys}
    form = draw.one(["{k} = {v}", "{k}: {v}", "{k}={v}", '"{k}": "{v}",'])
    text = "\n".join(form.format(k=key, v=value) for key, value in values.items())
    key = draw.one(keys)
    asks = "What is the {k}?|What is the value of {k}?|Which {k} is set?|Tell me the {k}.|What is {k} set to?"
    ending = draw.one([".toml", ".ini", ".json", ".conf", ".txt"])
    question = draw.one(asks.split("|")).format(k=key)
    return [(f"{file_block(path(draw, ending), text)}\n\n{question}", f"The {key} is {values[key]}.")]
