"""Small sums: below 100 the model computes, above it says that it cannot."""

from training.draw import Draw

Turn = tuple[str, str]

TOO_LARGE = "That sum is too large for a toy model."


def add(draw: Draw) -> list[Turn]:
    if draw.chance(0.04):
        a, b = draw.number(100, 9999), draw.number(0, 9999)
        ask = draw.one(
            ["What is {a} + {b}?", "{a} + {b} =", "Add {a} and {b}.", "What is {a} plus {b}?", "{a}+{b}"]
        )
        return [(ask.format(a=a, b=b) if draw.chance(0.5) else ask.format(a=b, b=a), TOO_LARGE)]
    top = draw.one([9, 20, 50, 99, 99, 99])
    low, high = draw.split("add", lambda: tuple(sorted((draw.number(0, top), draw.number(0, top)))))
    a, b = (low, high) if draw.chance(0.5) else (high, low)
    asks = (
        "What is {a} + {b}?|What is {a} plus {b}?|{a} + {b} =|Add {a} and {b}.|Compute {a} + {b}.|{a} + {b}"
    )
    asks += (
        "|How much is {a} + {b}?|{a}+{b}|Calculate {a} + {b}.|"
        "What is the sum of {a} and {b}?|what is {a} + {b}"
    )
    return [(draw.one(asks.split("|")).format(a=a, b=b), f"{a} + {b} = {a + b}")]


def minus(draw: Draw) -> list[Turn]:
    top = draw.one([9, 20, 50, 99])
    b, a = draw.split("minus", lambda: tuple(sorted((draw.number(0, top), draw.number(0, top)))))
    if draw.chance(0.08):
        a, b = b, a
    asks = (
        "What is {a} - {b}?|What is {a} minus {b}?|{a} - {b} =|Subtract {b} from {a}.|"
        "Compute {a} - {b}.|{a} - {b}"
    )
    asks += "|How much is {a} - {b}?|{a}-{b}|Calculate {a} - {b}."
    return [(draw.one(asks.split("|")).format(a=a, b=b), f"{a} - {b} = {a - b}")]
