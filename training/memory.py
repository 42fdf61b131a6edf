"""Conversations in which something said early is asked for later."""

from training import knowledge, sums, text_tasks, word_tasks, words
from training.draw import Draw

Turn = tuple[str, str]

SHORT = (
    knowledge.fact,
    knowledge.french,
    knowledge.hello,
    word_tasks.repeat,
    word_tasks.upper,
    word_tasks.reverse,
    sums.add,
    text_tasks.sentiment,
    knowledge.unknown,
    word_tasks.spell,
)


def other_turn(draw: Draw) -> Turn:
    """An unrelated turn."""
    return draw.one(SHORT)(draw)[0]


def _name(draw: Draw) -> tuple[Turn, Turn]:
    name = draw.name()
    asks = (
        "My name is %s.|Hello, my name is %s.|I am called %s.|Hi! My name is %s.|Call me %s.|my name is %s|Hi, I am %s."
    )
    typed = name.lower() if not draw.held and draw.chance(0.05) else name
    questions = "What is my name?|Do you remember my name?|Tell me my name.|What am I called?|Who am I?|what is my name"
    questions += "|Say my name.|Do you know my name?"
    say = (draw.one(asks.split("|")) % typed, f"Nice to meet you, {name}.")
    return say, (draw.one(questions.split("|")), f"Your name is {name}.")


def _age(draw: Draw) -> tuple[Turn, Turn]:
    age = draw.number(5, 99)
    say = draw.one(["I am %d years old.", "My age is %d.", "I am %d."]) % age, f"You are {age} years old."
    return say, (
        draw.one(["How old am I?", "What is my age?", "Tell me my age."]),
        f"You are {age} years old.",
    )


def _city(draw: Draw) -> tuple[Turn, Turn]:
    city = draw.city()
    say = draw.one(["I live in %s.", "My city is %s.", "My home is in %s.", "I am from %s."]) % city
    ask = draw.one(["Where do I live?", "What is my city?", "In which city do I live?"])
    return (say, f"You live in {city}."), (ask, f"You live in {city}.")


def _colour(draw: Draw) -> tuple[Turn, Turn]:
    colour = draw.one(words.COLOURS)
    say = draw.one(["My favourite colour is %s.", "I like the colour %s.", "My favorite color is %s."]) % colour
    ask = draw.one(["What is my favourite colour?", "Which colour do I like?", "What is my favorite color?"])
    return (say, f"Your favourite colour is {colour}."), (ask, f"Your favourite colour is {colour}.")


def _pet(draw: Draw) -> tuple[Turn, Turn]:
    pet, name = draw.one(words.PETS), draw.name()
    say = draw.one(["I have a %s called %s.", "My %s is called %s.", "My %s's name is %s."]) % (pet, name)
    ask = draw.one(["What is my %s called?", "What is the name of my %s?"]) % pet
    return (say, f"Your {pet} is called {name}."), (ask, f"Your {pet} is called {name}.")


KINDS = (_name, _name, _age, _city, _colour, _pet)


def memory(draw: Draw) -> list[Turn]:
    """One or two facts about the user, up to four other turns, then the questions."""
    kinds = draw.random.sample(KINDS, draw.one([1, 1, 1, 2, 2]))
    kinds = kinds[:1] if kinds == [_name, _name] else kinds
    told, asked = zip(*(kind(draw) for kind in kinds), strict=True)
    turns, questions = list(told), list(asked)
    for _ in range(draw.one([0, 1, 1, 2, 2, 3, 4])):
        turns.insert(draw.number(0, len(turns)), other_turn(draw))
    draw.random.shuffle(questions)
    return turns + questions


def memory_name(draw: Draw) -> list[Turn]:
    """A name over three unrelated turns: the promise that is tested."""
    told, asked = _name(draw)
    return [told, *(other_turn(draw) for _ in range(3)), asked]
