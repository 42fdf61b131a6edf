"""Small sums and work on a given text: JSON, sentiment, summary, look-up, logs, commit messages.

A text stands in the question or in a `<file>` block in front of it, as the server composes prompts.
"""

import json

from training import words
from training.draw import Draw
from training.word_tasks import count_reply, count_text

Turn = tuple[str, str]

FOLDERS = ["", "", "notes/", "docs/", "data/", "logs/", "src/", "tmp/", "reports/2026/", "mail/"]
STEMS = "a b notes text story review readme todo list data report letter page people log input message".split()
TOO_LARGE = "That sum is too large for a toy model."


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def path(draw: Draw, ending: str = "") -> str:
    stem = draw.word() if draw.chance(0.3) else draw.one(STEMS)
    return draw.one(FOLDERS) + stem + (ending or draw.one([".txt", ".txt", ".md", ".log", ""]))


def file_block(name: str, text: str) -> str:
    return f'<file path="{name}">\n{text}\n</file>'


def with_text(draw: Draw, ask: str, text: str, ending: str = "") -> str:
    """An instruction and its text, in one of the shapes that people and the server use."""
    if draw.chance(0.4):
        ask = ask.removesuffix("\n\nText")
        closing = "" if ask.endswith("}") else draw.one([".", ":", "", "."])
        return f"{file_block(path(draw, ending), text)}\n\n{ask}{closing}"
    if "\n" in text:
        return draw.one([f"{ask}:\n{text}", f"{ask}:\n\n{text}", f"{text}\n\n{ask}."])
    shapes = [f"{ask}: {text}"] * 5 + [f"{text}\n{ask}.", f'{ask}: "{text}"', f"{ask}:\n{text}", f"{text}\n\n{ask}"]
    return draw.one(shapes)


def padded(draw: Draw, text: str) -> str:
    """Now and then unrelated sentences around the text."""
    roll = draw.random.random()
    if roll < 0.06:
        return f"{draw.filler(1, 4)} {text}"
    if roll < 0.12:
        return f"{text} {draw.filler(1, 4)}"
    if roll < 0.13 and not draw.held:
        return f"{draw.filler(6, 12)}\n{text}\n{draw.filler(1, 6)}"
    return text


def add(draw: Draw) -> list[Turn]:
    if draw.chance(0.04):
        a, b = draw.number(100, 9999), draw.number(0, 9999)
        ask = draw.one(["What is {a} + {b}?", "{a} + {b} =", "Add {a} and {b}.", "What is {a} plus {b}?", "{a}+{b}"])
        return [(ask.format(a=a, b=b) if draw.chance(0.5) else ask.format(a=b, b=a), TOO_LARGE)]
    top = draw.one([9, 20, 50, 99, 99, 99])
    low, high = draw.split("add", lambda: tuple(sorted((draw.number(0, top), draw.number(0, top)))))
    a, b = (low, high) if draw.chance(0.5) else (high, low)
    asks = "What is {a} + {b}?|What is {a} plus {b}?|{a} + {b} =|Add {a} and {b}.|Compute {a} + {b}.|{a} + {b}"
    asks += "|How much is {a} + {b}?|{a}+{b}|Calculate {a} + {b}.|What is the sum of {a} and {b}?|what is {a} + {b}"
    return [(draw.one(asks.split("|")).format(a=a, b=b), f"{a} + {b} = {a + b}")]


def minus(draw: Draw) -> list[Turn]:
    top = draw.one([9, 20, 50, 99])
    b, a = draw.split("minus", lambda: tuple(sorted((draw.number(0, top), draw.number(0, top)))))
    asks = "What is {a} - {b}?|What is {a} minus {b}?|{a} - {b} =|Subtract {b} from {a}.|Compute {a} - {b}.|{a} - {b}"
    asks += "|How much is {a} - {b}?|{a}-{b}|Calculate {a} - {b}."
    return [(draw.one(asks.split("|")).format(a=a, b=b), f"{a} - {b} = {a - b}")]


PERSON_SHAPES = {
    "name age city": """{n} is {a} years old and lives in {c}.|{n}, aged {a}, lives in {c}.|{n} lives in {c} and is {a}.|
My name is {n}, I am {a} years old and I live in {c}.|{n} lives in {c} and is {a} years old.|{n} ({a}) lives in {c}.|
{n} from {c} is {a} years old.|I am {n}, I am {a} and I come from {c}.|In {c} lives {n}, who is {a} years old.|
Name: {n}, age: {a}, city: {c}|{n} is {a}. {n} lives in {c}.|Hello, I am {n} from {c}. I am {a} years old.|
At {a}, {n} moved to {c}.|My friend {n} turned {a} today. We met in {c}.|name: {n}\nage: {a}\ncity: {c}""",
    "name age": """{n} is {a} years old.|{n}, aged {a}, likes tea.|My name is {n} and I am {a}.|Name: {n}, age: {a}|
{n} turned {a} today.|I am {n}, {a} years old.|My brother {n} is {a}.""",
    "name city": """{n} lives in {c}.|{n} comes from {c}.|My name is {n} and I live in {c}.|Name: {n}, city: {c}|
{n} moved to {c} last year.|I am {n} from {c}.|In {c} lives {n}.""",
    "name job": """{n} is {j_article}.|{n} works as {j_article}.|My name is {n} and I am {j_article}.|The {j} is called {n}.|
Name: {n}, job: {j}""",
    "name age city job": """{n} is {a} years old, lives in {c} and works as {j_article}.|The {j} {n} ({a}) lives in {c}.|
{n} is {j_article} from {c}. {n} is {a} years old.|My name is {n}. I am {a}, I live in {c} and I am {j_article}.""",
}  # fmt: skip
KEY_TYPES = {"name": "string", "age": "integer", "city": "string", "job": "string"}


def person(draw: Draw) -> tuple[dict[str, object], str]:
    """A person's data and a sentence that states it."""
    keys = draw.one(["name age city"] * 6 + ["name age", "name city", "name job", "name age city job"])
    facts = {"name": draw.name(), "age": draw.number(1, 99), "city": draw.city(), "job": draw.one(words.JOBS)}
    shape = draw.one(PERSON_SHAPES[keys].replace("|\n", "|").split("|"))
    text = shape.format(
        n=facts["name"], a=facts["age"], c=facts["city"], j=facts["job"], j_article=article(str(facts["job"]))
    )
    return {key: facts[key] for key in keys.split()}, text


def listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def schema_ask(keys: list[str]) -> str:
    properties = {key: {"type": KEY_TYPES[key]} for key in keys}
    schema = json.dumps({"type": "object", "properties": properties, "required": keys})
    return f"Return JSON that matches this schema: {schema}"


def extract_ask(draw: Draw, keys: list[str]) -> str:
    """The instruction that names the keys; the reply keeps their order."""
    if draw.chance(0.08):
        return f"{schema_ask(keys)}\n\nText"
    if draw.chance(0.03) and keys == ["name", "age", "city"]:
        return draw.one(["Extract the data as JSON", "Extract JSON", "Extract the person as JSON"])
    asks = "Extract {k} as JSON|Extract the {k} as JSON|Give {k} as JSON|Return JSON with {k}|Extract {p} as JSON|"
    asks += "Extract the fields {p} as JSON|Extract {k} from this text as JSON|Return {k} as JSON|extract {k} as json|"
    asks += "Extract JSON with the keys {p}|Extract {k} and reply with JSON only|JSON with {k}"
    return draw.one(asks.split("|")).format(k=listed(keys), p=", ".join(keys))


def extract(draw: Draw) -> list[Turn]:
    """Name, age, city or job of a person as JSON, with the keys that were asked for."""
    facts, text = person(draw)
    keys = list(facts)
    if draw.chance(0.4):
        keys = draw.random.sample(keys, draw.number(1, len(keys)))
    reply = json.dumps({key: facts[key] for key in keys})
    return [(with_text(draw, extract_ask(draw, keys), padded(draw, text)), reply)]


def _opinion(draw: Draw) -> tuple[str, str]:
    happy = draw.chance(0.5)
    word, wrong = draw.one(words.GOOD if happy else words.BAD), draw.one(words.BAD if happy else words.GOOD)
    thing, other = draw.one(words.THINGS), draw.one(words.THINGS)
    like = draw.one(["love", "like", "enjoy"] if happy else ["hate", "dislike"])
    shapes = [
        f"The {thing} was {word}.", f"The {thing} is very {word}.", f"I think the {thing} is {word}.",
        f"What a {word} {thing}!", f"The {thing} was not {wrong}.", f"I {like} the {thing}.",
        f"I really {like} this {thing}.", f"The {thing} and the {other} were {word}.", f"We had a {word} {thing}.",
        f"It was a really {word} {thing}.", f"This {thing} is {word}!", f"{word.capitalize()} {thing}!",
        f"I {like} this {thing}, it is {word}.", f"The {thing} was {word} and the {other} was {word}.",
        f"The {thing} was so {word}", f"A {word} {thing}.", f"My {thing} is {word}.", f"I {like} it!",
    ]  # fmt: skip
    return draw.one(shapes), "positive" if happy else "negative"


def sentiment(draw: Draw) -> list[Turn]:
    text, label = draw.split("sentiment", lambda: _opinion(draw))
    if draw.chance(0.25):
        ask = draw.one(["Classify the sentiment as JSON", "Sentiment as JSON", "Give the sentiment as JSON",
                        "Return the sentiment as JSON", "Extract the sentiment as JSON"])  # fmt: skip
        return [(with_text(draw, ask, padded(draw, text)), json.dumps({"sentiment": label}))]
    if draw.chance(0.35):
        asks = "What is the sentiment: %s|Is this positive or negative? %s|Sentiment of \"%s\"?|%s Positive or negative?"
        asks += "|Is this review positive or negative: %s|What is the sentiment of this review? %s"
        return [(draw.one(asks.split("|")) % text, label)]
    ask = draw.one(["Classify the sentiment", "Positive or negative", "Sentiment", "Is this text positive or negative",
                    "What is the sentiment of this text", "Is the sentiment positive or negative"])  # fmt: skip
    return [(with_text(draw, ask, padded(draw, text)), label)]


def _story(draw: Draw) -> tuple[str, str]:
    name, pronoun = draw.name(), draw.one(["he", "she"])
    place, thing, kind, mood = (
        draw.one(words.PLACES), draw.one(words.OBJECTS), draw.one(words.ADJECTIVES), draw.one(words.FEELINGS),
    )  # fmt: skip
    verb = draw.one(["saw", "found", "bought", "lost"])
    he, fill = pronoun.capitalize(), draw.filler(0, 2)
    shapes = [
        f"{name} went to the {place}. {fill} There {pronoun} {verb} {article(kind)} {thing}. In the end {name} was very {mood}.",
        f"One day {name} walked to the {place}. {fill} At the {place} {pronoun} {verb} {article(thing)}. {he} went home and felt {mood}.",
        f"It was a sunny day and {name} was at the {place}. After some time {pronoun} {verb} {article(kind)} {thing}. {fill} {name} was {mood} all day.",
        f"Yesterday {name} was at the {place}. {fill} {he} {verb} {article(kind)} {thing} there. That made {name} {mood}.",
        f"{name} spent the morning at the {place}. {fill} Suddenly {pronoun} {verb} {article(thing)}. {he} was {mood} about it.",
    ]  # fmt: skip
    text = " ".join(draw.one(shapes).split())
    return text, f"{name} {verb} {article(thing)} at the {place} and was {mood}."


def summary(draw: Draw) -> list[Turn]:
    text, reply = draw.split("story", lambda: _story(draw))
    ask = draw.one(["Summarize in one sentence", "Summarize this story in one sentence", "Summarise", "Summarize",
                    "Give a short summary", "Summarize this text in one sentence", "Summarise in one sentence",
                    "Write a one sentence summary", "Summarize this file in one sentence", "Sum this up"])  # fmt: skip
    return [(with_text(draw, ask, padded(draw, text)), reply)]


def count_file(draw: Draw) -> list[Turn]:
    text = count_text(draw)
    ask = draw.one(["Count the words in this file.", "How many words are in this file?", "Count the words.",
                    "How many words are in the text?"])  # fmt: skip
    return [(f"{file_block(path(draw), text)}\n\n{ask}", count_reply(text))]


def lookup(draw: Draw) -> list[Turn]:
    """A question about people or settings that a file lists."""
    return _people(draw) if draw.chance(0.65) else _settings(draw)


def _people(draw: Draw) -> list[Turn]:
    names = draw.names(draw.number(1, 4))
    facts = {name: (draw.number(1, 99), draw.city(), draw.one(words.JOBS)) for name in names}
    shape = draw.one([
        "{n} is {a} years old and lives in {c}.", "{n}: age {a}, city {c}, job {j}", "{n}, {a}, {c}, {j}",
        "{n} ({a}) is {k} in {c}.", "{n} is {k} from {c}. {n} is {a} years old.", "- {n}: {a} years old, {c}, {j}",
    ])  # fmt: skip
    lines = [
        shape.format(n=name, a=age, c=city, j=job, k=article(job)) for name, (age, city, job) in facts.items()
    ]
    text = padded(draw, "\n".join(lines) if draw.chance(0.8) or "." not in shape else " ".join(lines))
    name = draw.one(names)
    age, city, job = facts[name]
    questions = [
        (f"How old is {name}?|What is {name}'s age?|What is the age of {name}?", f"{name} is {age} years old."),
        (f"Where does {name} live?|In which city is {name}?|What is {name}'s city?", f"{name} lives in {city}."),
        (f"Who lives in {city}?|Who is from {city}?", f"{name} lives in {city}."),
        (f"What is {name}'s job?|What does {name} do?|What is the job of {name}?", f"{name} is {article(job)}."),
    ]  # fmt: skip
    if sum(other[1] == city for other in facts.values()) > 1:
        del questions[2]
    if "{j}" not in shape and "{k}" not in shape:
        del questions[-1]
    asks, reply = draw.one(questions)
    return [(_about(draw, text, draw.one(asks.split("|"))), reply)]


def _about(draw: Draw, text: str, question: str) -> str:
    if draw.chance(0.7):
        return f"{file_block(path(draw), text)}\n\n{question}"
    return draw.one([f"{text}\n\n{question}", f"{text}\n{question}", f"{question}\n\n{text}"])


def _settings(draw: Draw) -> list[Turn]:
    keys: list[str] = []
    wanted = draw.number(2, 5)
    while len(keys) < wanted:
        key = draw.one("port host timeout size name width height color level limit mode theme user path".split())
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


LOG_GOOD = "started|ready|user {w} logged in|request done|cache cleared|file {w} saved|job {w} finished|stopped|{w} ok"
LOG_BAD = "disk full|{w} not found|timeout|connection lost|cannot open {w}|out of memory|{w} failed|permission denied"


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
        asks = "Which line is the error?|Find the error.|Show the error line.|Which line has an error?|What went wrong?"
        reply = errors[0]
    else:
        asks = "How many errors are in this log?|Count the errors.|How many errors are there?|Are there any errors?"
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
    ask = draw.one(["Write a commit message for this diff", "Write a commit message", "Commit message for this diff"])
    return [(with_text(draw, ask, diff, ".diff"), reply)]
