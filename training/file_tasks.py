"""Work on files: look something up, triage a log, write a commit message, count words."""

from training import words
from training.draw import Draw
from training.text_tasks import article, file_block, padded, path, with_text
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
    lines = [
        shape.format(n=name, a=age, c=city, j=job, k=article(job)) for name, (age, city, job) in facts.items()
    ]
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


LOG_GOOD = (
    "started|ready|user {w} logged in|request done|cache cleared|file {w} saved|"
    "job {w} finished|stopped|{w} ok"
)
LOG_BAD = (
    "disk full|{w} not found|timeout|connection lost|cannot open {w}|out of memory|"
    "{w} failed|permission denied"
)


def _log(draw: Draw) -> tuple[list[str], list[str]]:
    """A log and its error lines."""
    lines, errors = [], []
    minute = draw.number(0, 40)
    style = draw.one(["{t} {l} {m}", "{l} {m}", "{l}: {m}", "[{l}] {m}", "{t} [{l}] {m}"])
    for _ in range(draw.number(2, 6)):
        minute += draw.number(0, 3)
        bad = draw.chance(0.35)
        level = "ERROR" if bad else draw.one(["INFO", "INFO", "DEBUG", "WARN"])
        message = draw.one((LOG_BAD if bad else LOG_GOOD).split("|")).format(w=draw.word())
        line = style.format(t=f"{draw.number(8, 19):02d}:{minute:02d}", l=level, m=message)
        lines.append(line)
        errors += [line] if bad else []
    return lines, errors


def log(draw: Draw) -> list[Turn]:
    """Triage of a few log lines: how many errors, which line is the error."""
    lines, errors = _log(draw)
    if len(errors) == 1 and draw.chance(0.7):
        asks = (
            "Which line is the error?|Find the error.|Show the error line.|"
            "Which line has an error?|What went wrong?"
        )
        reply = errors[0]
    else:
        asks = (
            "How many errors are in this log?|Count the errors.|How many errors are there?|"
            "Are there any errors?"
        )
        number = {0: "are no errors", 1: "is 1 error"}.get(len(errors), f"are {len(errors)} errors")
        reply = f"There {number}."
    question, text = draw.one(asks.split("|")), "\n".join(lines)
    if draw.chance(0.75):
        return [(f"{file_block(path(draw, '.log'), text)}\n\n{question}", reply)]
    return [(draw.one([f"{text}\n\n{question}", f"{question}\n{text}"]), reply)]


def commit(draw: Draw) -> list[Turn]:
    """A commit message for a tiny diff."""
    name, other, file = draw.word(), draw.word(), f"{draw.word()}.py"
    low, high = draw.number(1, 99), draw.number(100, 999)
    cases = [
        ([f"+def {name}(x):", "+    return x"], f"Add function {name} to {file}"),
        ([f"-def {name}(x):", "-    return x"], f"Remove function {name} from {file}"),
        ([f"-def {name}(x):", f"+def {other}(x):"], f"Rename {name} to {other} in {file}"),
        ([f"-{name} = {low}", f"+{name} = {high}"], f"Change {name} from {low} to {high} in {file}"),
        ([f"-import {name}"], f"Remove import of {name} from {file}"),
        ([f"+import {name}"], f"Import {name} in {file}"),
    ]
    changes, reply = draw.one(cases)
    diff = "\n".join([f"--- a/{file}", f"+++ b/{file}", *changes])
    ask = draw.one(
        ["Write a commit message for this diff", "Write a commit message", "Commit message for this diff"]
    )
    return [(with_text(draw, ask, diff, ".diff"), reply)]
