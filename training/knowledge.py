"""What the model knows by heart: facts, French words, who it is, and that it knows nothing else."""

import functools
from collections.abc import Iterator

from training import words
from training.draw import Draw, held_out
from training.words import choices

Turn = tuple[str, str]

HELLO = choices("""
Hello|Hi|Hey|Good morning|Hello there|Hi there|Good evening|Hello, how are you|Hey there|Good day
""")
HELLO_REPLY = "Hello! I am a toy model. Ask me something simple."
WHO = choices("""
Who are you?|What are you?|What is your name?|Tell me about yourself.|Are you a big model?|
What can you do?|Which model are you?|Introduce yourself.|Are you Gemma?|What model is this?
""")
WHO_REPLY = (
    "I am the gemma-mcp starter, a toy model. I know a few facts, word games, "
    "small sums, tiny code and simple pictures."
)
THANKS = choices("Thanks|Thank you|Thank you very much|Thanks a lot|Great, thanks|Good, thank you")
THANKS_REPLY = "You are welcome."
BYE = choices("Bye|Goodbye|See you later|Good night|Bye bye")
BYE_REPLY = "Goodbye!"
UNKNOWN = "I am only a toy model. I do not know that."
UNKNOWN_ASKS = choices("""
Who wrote {w}?|Explain {w} to me.|What is the history of {w}?|How do I cook {w}?|Explain {w}.|
What is the price of {w}?|Write a poem about {w}.|Write a haiku about {w}.|Write a haiku.|Write a poem.|
Tell me a joke.|Who invented the {w}?|What do you think about {w}?|When was {w} born?|
Give me advice about {w}.|What is {w}?|What is the weather in {w}?|Why is {w} important?|
Tell me a joke about {w}.|What is the population of {w}?|Who is {w}?|What is the meaning of {w}?|
What is the meaning of life?|Write a story about {w}.|Write an essay about {w}.|How does {w} work?|
Why {w}?|Can you help me with {w}?|What happened in {w}?|Where can I buy {w}?|Compare {w} and {v}.|
What is the difference between {w} and {v}?|Is {w} better than {v}?|Plan a trip to {w}.|
Who won the {w}?|Give me a recipe for {w}.|How old is the {w}?|What time is it?|What is the news today?
""")


def _subjects() -> Iterator[tuple[list[str], str]]:
    """Every fact: its questions and its one reply."""
    for country, city in words.CAPITALS.items():
        asks = (
            "What is the capital of %s?|Tell me the capital of %s.|Name the capital of %s.|Capital of %s?|"
            "Which city is the capital of %s?|capital of %s|Do you know the capital of %s?|"
            "What is %s's capital?|"
            "What city is the capital of %s?"
        )
        yield [ask % country for ask in asks.split("|")], f"The capital of {country} is {city}."
    for thing, colour in words.COLOUR_OF.items():
        asks = (
            "What colour is %s?|What is the colour of %s?|Which colour is %s?|Tell me the colour of %s.|"
            "What color is %s?|What is the color of %s?|Which color does %s have?|What colour has %s?"
        )
        yield [ask % thing for ask in asks.split("|")], f"{thing[0].upper()}{thing[1:]} is {colour}."
    yield from _word_pairs()
    yield from _calendar()
    yield from _animals_and_numbers()


def _word_pairs() -> Iterator[tuple[list[str], str]]:
    asks = "What is the {r} of {w}?|Tell me the {r} of {w}.|Give the {r} of {w}.|{r} of {w}|Name the {r} of {w}."
    asks += '|What is the {r} of "{w}"?|Do you know the {r} of {w}?|Which word is the {r} of {w}?'
    for first, second in words.OPPOSITES.items():
        for word, other in ((first, second), (second, first)):
            questions = [ask.format(r="opposite", w=word) for ask in asks.split("|")]
            yield questions, f"The opposite of {word} is {other}."
    for word, other in words.PLURALS.items():
        yield [ask.format(r="plural", w=word) for ask in asks.split("|")], f"The plural of {word} is {other}."


def _calendar() -> Iterator[tuple[list[str], str]]:
    for names, kind in ((words.DAYS, "day"), (words.MONTHS, "month")):
        for i, name in enumerate(names):
            for relation, other in (("after", names[(i + 1) % len(names)]), ("before", names[i - 1])):
                questions = [
                    f"Which {kind} comes {relation} {name}?", f"What {kind} comes {relation} {name}?",
                    f"What comes {relation} {name}?", f"Name the {kind} {relation} {name}.",
                    f"What is the {kind} {relation} {name}?", f"Which {kind} is {relation} {name}?",
                    f"Tell me the {kind} {relation} {name}.",
                ]  # fmt: skip
                yield questions, f"{other} comes {relation} {name}."


def _animals_and_numbers() -> Iterator[tuple[list[str], str]]:
    def article(word: str) -> str:
        return f"an {word}" if word[0] in "aeiou" else f"a {word}"

    for animal, sound in words.SOUNDS.items():
        asks = "What sound does a %s make?|What does a %s say?|Which sound does a %s make?|What noise does a %s make?"
        asks += "|Tell me what a %s says.|How does a %s sound?"
        yield [ask % animal for ask in asks.split("|")], f"A {animal} says {sound}."
    for animal, young in words.YOUNG.items():
        asks = "What is a young %s called?|What is a baby %s called?|What do you call a young %s?|"
        asks += "What do you call a baby %s?|Name a young %s.|How is a young %s called?"
        yield [ask % animal for ask in asks.split("|")], f"A young {animal} is called a {young}."
    for animal, legs in words.LEGS.items():
        asks = "How many legs does %s have?|How many legs has %s?|Tell me how many legs %s has.|"
        asks += "How many legs are on %s?|What number of legs does %s have?"
        thing = article(animal)
        yield [ask % thing for ask in asks.split("|")], f"{thing[0].upper()}{thing[1:]} has {legs} legs."
    for phrase, (reply, other) in words.HOW_MANY.items():
        asks = "How many {p}?|Tell me how many {p}.|Do you know how many {p}?|How many {o}?|Say how many {p}."
        yield [ask.format(p=phrase, o=other) for ask in asks.split("|")], reply
    for a in range(11):
        for b in range(11):
            asks = (
                "What is {a} times {b}?|{a} * {b} =|What is {a} * {b}?|Multiply {a} by {b}.|How much is {a} times {b}?"
            )
            asks += "|{a} x {b}|Compute {a} * {b}.|What is {a} x {b}?"
            yield [ask.format(a=a, b=b) for ask in asks.split("|")], f"{a} * {b} = {a * b}"


@functools.cache
def _questions(held: bool) -> tuple[list[Turn], list[Turn]]:
    """Wordings on one side of the split, times tables apart; at most two of a fact are held out."""
    facts: list[Turn] = []
    times: list[Turn] = []
    for questions, reply in _subjects():
        kept_back = [question for question in questions if held_out("fact", question)][:2]
        chosen = kept_back if held else [question for question in questions if question not in kept_back]
        (times if " * " in reply else facts).extend((question, reply) for question in chosen)
    return facts, times


def casual(draw: Draw, question: str) -> str:
    """How people really type: lower case, no punctuation, a polite opening."""
    if draw.chance(0.15):
        question = question.lower()
    if draw.chance(0.15):
        question = question.rstrip("?.!")
    if draw.chance(0.06):
        question = draw.one(["Please answer: ", "Question: ", "Hey, ", "Hello! ", "Quick question: "]) + question
    return question


def fact(draw: Draw) -> list[Turn]:
    question, reply = draw.one(_questions(draw.held)[0])
    return [(casual(draw, question), reply)]


def times(draw: Draw) -> list[Turn]:
    question, reply = draw.one(_questions(draw.held)[1])
    return [(question, reply)]


@functools.cache
def _translations(held: bool) -> list[Turn]:
    asks = (
        'Translate to French: %s|Translate %s to French.|Translate "%s" to French.|'
        "How do you say %s in French?|"
        "What is %s in French?|What is the French word for %s?|%s in French|"
        "Translate %s into French.|French for %s?"
        '|How do you say "%s" in French?|Translate into French: %s|Give the French word for %s.'
    )
    pairs = [(ask % english, french) for english, french in words.FRENCH.items() for ask in asks.split("|")]
    return [pair for pair in pairs if held_out("french", pair[0]) == held]


def french(draw: Draw) -> list[Turn]:
    question, reply = draw.one(_translations(draw.held))
    return [(casual(draw, question), reply)]


def hello(draw: Draw) -> list[Turn]:
    """Greetings, thanks and questions about the model itself."""
    roll = draw.random.random()
    if roll < 0.45:
        return [(casual(draw, draw.one(WHO)), WHO_REPLY)]
    asks, reply = draw.one([(HELLO, HELLO_REPLY)] * 2 + [(THANKS, THANKS_REPLY), (BYE, BYE_REPLY)])
    text = draw.one(asks) + draw.one(["", ".", "!", ""])
    return [(text.lower() if draw.chance(0.3) else text, reply)]


OPENINGS = choices("""
What|Why|How|Who|When|Where|Which|Can you|Please|Tell me|Explain|Describe|Give me|List|Should I|Do you|
Is|Are|Will|Create|Make|Show|Help me|Find|Draw|Sing|Imagine|Suggest|Recommend|I want|I need|Let us|
Could you
""")
NEAR_ASKS = choices("""
What is the capital of {N}?|Translate {w} to French.|What is the opposite of {w}?|
How do you say {w} in French?|Which city is the capital of {N}?|What colour is the {w}?|
What is the young of a {w}?
""")


def unknown(draw: Draw) -> list[Turn]:
    """Everything else: the model says that it does not know."""
    roll = draw.random.random()
    if roll < 0.25:
        question = f"{draw.one(OPENINGS)} {draw.phrase(1, 7)}{draw.one(['?', '.', ''])}"
        return [(casual(draw, question), UNKNOWN)]
    if roll < 0.35:
        return [
            (
                draw.one(NEAR_ASKS).format(w=draw.pseudo_word() + "o", N=draw.pseudo_word().capitalize()),
                UNKNOWN,
            )
        ]
    ask = draw.one(UNKNOWN_ASKS)
    subject = draw.phrase(1, 2) if draw.chance(0.6) else draw.name()
    return [(casual(draw, ask.format(w=subject, v=draw.word())), UNKNOWN)]
