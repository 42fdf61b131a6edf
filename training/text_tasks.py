"""Work on a given text: extraction to JSON, sentiment, summary.

A text stands in the question or in a `<file>` block in front of it, as the server composes prompts.
"""

import json

from training import words
from training.draw import Draw

Turn = tuple[str, str]

FOLDERS = ["", "", "notes/", "docs/", "data/", "logs/", "src/", "tmp/", "reports/2026/", "mail/"]
STEMS = words.table("a b notes text story review readme todo list data report letter page people log input message")


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
    shapes = [f"{ask}: {text}"] * 5 + [
        f"{text}\n{ask}.",
        f'{ask}: "{text}"',
        f"{ask}:\n{text}",
        f"{text}\n\n{ask}",
    ]
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


PERSON_SHAPES = {
    "name age city": """
{n} is {a} years old and lives in {c}.|{n}, aged {a}, lives in {c}.|{n} lives in {c} and is {a}.|
My name is {n}, I am {a} years old and I live in {c}.|{n} lives in {c} and is {a} years old.|
{n} ({a}) lives in {c}.|{n} from {c} is {a} years old.|I am {n}, I am {a} and I come from {c}.|
In {c} lives {n}, who is {a} years old.|Name: {n}, age: {a}, city: {c}|{n} is {a}. {n} lives in {c}.|
Hello, I am {n} from {c}. I am {a} years old.|At {a}, {n} moved to {c}.|
My friend {n} turned {a} today. We met in {c}.|name: {n}{nl}age: {a}{nl}city: {c}""",
    "name age": """
{n} is {a} years old.|{n}, aged {a}, likes tea.|My name is {n} and I am {a}.|Name: {n}, age: {a}|
{n} turned {a} today.|I am {n}, {a} years old.|My brother {n} is {a}.""",
    "name city": """
{n} lives in {c}.|{n} comes from {c}.|My name is {n} and I live in {c}.|Name: {n}, city: {c}|
{n} moved to {c} last year.|I am {n} from {c}.|In {c} lives {n}.""",
    "name job": """
{n} is {j_article}.|{n} works as {j_article}.|My name is {n} and I am {j_article}.|
The {j} is called {n}.|Name: {n}, job: {j}""",
    "name age city job": """
{n} is {a} years old, lives in {c} and works as {j_article}.|The {j} {n} ({a}) lives in {c}.|
{n} is {j_article} from {c}. {n} is {a} years old.|
My name is {n}. I am {a}, I live in {c} and I am {j_article}.""",
}
KEY_TYPES = {"name": "string", "age": "integer", "city": "string", "job": "string"}


def person(draw: Draw) -> tuple[dict[str, object], str]:
    """A person's data and a sentence that states it."""
    keys = draw.one(["name age city"] * 6 + ["name age", "name city", "name job", "name age city job"])
    facts = {"name": draw.name(), "age": draw.number(1, 99), "city": draw.city(), "job": draw.one(words.JOBS)}
    shape = draw.one(words.choices(PERSON_SHAPES[keys]))
    text = shape.format(
        nl="\n",
        n=facts["name"],
        a=facts["age"],
        c=facts["city"],
        j=facts["job"],
        j_article=article(str(facts["job"])),
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
    more = draw.one(words.GOOD if happy else words.BAD)
    thing, other = draw.one(words.THINGS), draw.one(words.THINGS)
    like = draw.one(["love", "like", "enjoy"] if happy else ["hate", "dislike"])
    shapes = [
        f"The {thing} was {word}.",
        f"The {thing} is very {word}.",
        f"I think the {thing} is {word}.",
        f"What a {word} {thing}!",
        f"The {thing} was not {wrong}.",
        f"I {like} the {thing}.",
        f"I really {like} this {thing}.",
        f"The {thing} and the {other} were {word}.",
        f"We had a {word} {thing}.",
        f"It was a really {word} {thing}.",
        f"This {thing} is {word}!",
        f"{word.capitalize()} {thing}!",
        f"I {like} this {thing}, it is {word}.",
        f"The {thing} was {word} and the {other} was {more}.",
        f"The {thing} is {word} and {more}.",
        f"{word.capitalize()} and {more}.",
        f"I {like} it. {more.capitalize()} {thing}!",
        f"The {other} was {word}, the {thing} {more}.",
        f"The {thing} was {word}. The {other} was {more}.",
        f"The {thing} was so {word}",
        f"A {word} {thing}.",
        f"My {thing} is {word}.",
        f"I {like} it!",
    ]
    return draw.one(shapes), "positive" if happy else "negative"


def sentiment(draw: Draw) -> list[Turn]:
    text, label = draw.split("sentiment", lambda: _opinion(draw))
    if draw.chance(0.25):
        ask = draw.one(
            [
                "Classify the sentiment as JSON",
                "Sentiment as JSON",
                "Give the sentiment as JSON",
                "Return the sentiment as JSON",
                "Extract the sentiment as JSON",
            ]
        )
        return [(with_text(draw, ask, padded(draw, text)), json.dumps({"sentiment": label}))]
    if draw.chance(0.35):
        asks = 'What is the sentiment: %s|Is this positive or negative? %s|Sentiment of "%s"?|%s Positive or negative?'
        asks += "|Is this review positive or negative: %s|What is the sentiment of this review? %s"
        return [(draw.one(asks.split("|")) % text, label)]
    ask = draw.one(
        [
            "Classify the sentiment",
            "Positive or negative",
            "Sentiment",
            "Is this text positive or negative",
            "What is the sentiment of this text",
            "Is the sentiment positive or negative",
        ]
    )
    return [(with_text(draw, ask, padded(draw, text)), label)]


def _story(draw: Draw) -> tuple[str, str]:
    name, pronoun = draw.name(), draw.one(["he", "she"])
    place, thing, kind, mood = (
        draw.one(words.PLACES),
        draw.one(words.OBJECTS),
        draw.one(words.ADJECTIVES),
        draw.one(words.FEELINGS),
    )
    verb = draw.one(["saw", "found", "bought", "lost"])
    he, fill = pronoun.capitalize(), draw.filler(0, 2)
    shapes = [
        (
            f"{name} went to the {place}. {fill} There {pronoun} {verb} {article(kind)} "
            f"{thing}. In the end {name} was very {mood}."
        ),
        (
            f"One day {name} walked to the {place}. {fill} At the {place} {pronoun} {verb} "
            f"{article(thing)}. {he} went home and felt {mood}."
        ),
        (
            f"It was a sunny day and {name} was at the {place}. After some time {pronoun} "
            f"{verb} {article(kind)} {thing}. {fill} {name} was {mood} all day."
        ),
        (
            f"Yesterday {name} was at the {place}. {fill} {he} {verb} {article(kind)} "
            f"{thing} there. That made {name} {mood}."
        ),
        (
            f"{name} spent the morning at the {place}. {fill} Suddenly {pronoun} {verb} "
            f"{article(thing)}. {he} was {mood} about it."
        ),
    ]
    text = " ".join(draw.one(shapes).split())
    return text, f"{name} {verb} {article(thing)} at the {place} and was {mood}."


def summary(draw: Draw) -> list[Turn]:
    text, reply = draw.split("story", lambda: _story(draw))
    ask = draw.one(
        [
            "Summarize in one sentence",
            "Summarize this story in one sentence",
            "Summarise",
            "Summarize",
            "Give a short summary",
            "Summarize this text in one sentence",
            "Summarise in one sentence",
            "Write a one sentence summary",
            "Summarize this file in one sentence",
            "Sum this up",
        ]
    )
    return [(with_text(draw, ask, padded(draw, text)), reply)]
