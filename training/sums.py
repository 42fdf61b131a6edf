"""Small sums: up to 50 the model computes, above it says that it cannot."""

from training.draw import Draw
from training.words import choices

Turn = tuple[str, str]

LARGEST = 50
TOO_LARGE = f"I only calculate with numbers up to {LARGEST}."


ADD = choices("""
What is {a} + {b}?|What is {a} plus {b}?|{a} + {b} =|Add {a} and {b}.|Compute {a} + {b}.|{a} + {b}|
How much is {a} + {b}?|{a}+{b}|Calculate {a} + {b}.|What is the sum of {a} and {b}?|what is {a} + {b}
""")
MINUS = choices("""
What is {a} - {b}?|What is {a} minus {b}?|{a} - {b} =|Subtract {b} from {a}.|Compute {a} - {b}.|{a} - {b}|
How much is {a} - {b}?|{a}-{b}|Calculate {a} - {b}.
""")


def too_large(draw: Draw, asks: list[str]) -> list[Turn]:
    """At least one number beyond what the model has learnt."""
    numbers = [
        draw.number(LARGEST + 1, draw.one([99, 999, 9999])),
        draw.number(0, 9999 if draw.chance(0.5) else 50),
    ]
    draw.random.shuffle(numbers)
    return [(draw.one(asks).format(a=numbers[0], b=numbers[1]), TOO_LARGE)]


def add(draw: Draw) -> list[Turn]:
    if draw.chance(0.06):
        return too_large(draw, ADD)
    top = draw.one([9, 20, LARGEST, LARGEST])
    low, high = draw.split("add", lambda: tuple(sorted((draw.number(0, top), draw.number(0, top)))))
    a, b = (low, high) if draw.chance(0.5) else (high, low)
    return [(draw.one(ADD).format(a=a, b=b), f"{a} + {b} = {a + b}")]


def minus(draw: Draw) -> list[Turn]:
    if draw.chance(0.06):
        return too_large(draw, MINUS)
    top = draw.one([9, 20, LARGEST])
    b, a = draw.split("minus", lambda: tuple(sorted((draw.number(0, top), draw.number(0, top)))))
    if draw.chance(0.08):
        a, b = b, a
    return [(draw.one(MINUS).format(a=a, b=b), f"{a} - {b} = {a - b}")]
