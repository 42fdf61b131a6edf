"""Tiny Python programs: generated ones that can be run and compared, and standard library functions."""

import ast
import functools
import textwrap
from dataclasses import dataclass

from training.draw import Draw, held_out, stdlib_sources
from training.recipes import RECIPES, Recipe
from training.words import choices, table

NUMBERS = table("a b c x y z n m p q num value left right first second other total size width height")
STRINGS = table("s text word name line string title msg t")
LISTS = dict(
    items="item",
    numbers="number",
    values="value",
    data="x",
    nums="num",
    things="thing",
    elements="element",
    words="word",
    rows="row",
    xs="x",
    lst="item",
)
CLASSES = table("Dog Cat Car Book User Item Point Box Person Player Shape Robot Node City Shop Order Task House")
FIELDS = table("name age size color price title x y width height owner speed value count")


@dataclass(frozen=True)
class Program:
    """Source text, and expressions whose values show what it does."""

    source: str
    calls: tuple[str, ...] = ()


HINTS = {"A": "int", "B": "int", "N": "int", "S": "str", "T": "str", "L": "list"}


def _bindings(draw: Draw, recipe: Recipe, canonical: bool) -> dict[str, str]:
    """Names for the parameters; the canonical ones are what the model writes when it may choose."""
    if canonical:
        bound = {
            "A": "a" if "B" in recipe.parameters.split() else "n",
            "B": "b",
            "S": "s",
            "T": "t",
            "L": "items",
            "I": "item",
        }
        bound["B"] = "item" if recipe.parameters == "L B" else "b"
        bound["I"] = "x" if bound["B"] == "item" else "item"
    else:
        first, second = draw.random.sample(NUMBERS, 2)
        text, other = draw.random.sample(STRINGS, 2)
        many = draw.one(list(LISTS))
        bound = {"A": first, "B": second, "S": text, "T": other, "L": many, "I": LISTS[many]}
        if recipe.parameters == "L B" and second == LISTS[many]:
            bound["B"] = "item" if many != "items" else "x"
    return bound | {"N": "n", "K": str(draw.number(2, 20))}


def function(draw: Draw, recipe: Recipe, name: str = "", canonical: bool = False) -> Program:
    """A recipe written out, sometimes with type hints, a docstring or a printed call."""
    bound = _bindings(draw, recipe, canonical)
    names = recipe.names.split()
    name = name or (names[0] if canonical else draw.one(names)).format(**bound)
    bound["F"] = name
    plain = canonical or draw.chance(0.8)
    parameters = [bound[p] if plain else f"{bound[p]}: {HINTS[p]}" for p in recipe.parameters.split()]
    body = textwrap.indent(recipe.body.format(**bound), "    ")
    if not canonical and recipe.asks and draw.chance(0.15):
        ask = draw.one(recipe.asks.split("|"))
        body = f'    """{ask[0].upper()}{ask[1:]}."""\n{body}'
    calls = tuple(f"{name}({arguments})" for arguments in recipe.calls.split("|"))
    source = f"def {name}({', '.join(parameters)}):\n{body}\n"
    return Program(source, calls)


def _class(draw: Draw) -> Program:
    name = draw.one(CLASSES)
    first, second = draw.random.sample(FIELDS, 2)
    head = f"class {name}:\n    def __init__(self, {first}):\n        self.{first} = {first}\n"
    variants = [
        Program(head, (f"vars({name}(1))",)),
        Program(
            f"class {name}:\n    def __init__(self, {first}, {second}):\n        self.{first} = {first}\n"
            f"        self.{second} = {second}\n",
            (f"vars({name}(1, 2))",),
        ),
        Program(
            head + f"\n    def get_{first}(self):\n        return self.{first}\n",
            (f"{name}(1).get_{first}()",),
        ),
        Program(
            head + f"\n    def set_{first}(self, {first}):\n        self.{first} = {first}\n",
            (f"(lambda o: (o.set_{first}(5), vars(o)))({name}(1))",),
        ),
        Program(
            f"class Counter:\n    def __init__(self):\n        self.{first} = 0\n\n    def add(self):\n"
            f"        self.{first} += 1\n",
            ("(lambda o: (o.add(), vars(o)))(Counter())",),
        ),
    ]
    return draw.one(variants)


def _loop(draw: Draw) -> Program:
    a, many, number = draw.one(NUMBERS), draw.one(list(LISTS)), draw.number(2, 9)
    return Program(
        draw.one(
            [
                f"for {LISTS[many]} in range({number}):\n    print({LISTS[many]})\n",
                f"{many} = [1, 2, 3]\nfor {LISTS[many]} in {many}:\n    print({LISTS[many]})\n",
                f"{a} = {number}\nwhile {a} > 0:\n    print({a})\n    {a} -= 1\n",
            ]
        )
    )


def any_program(draw: Draw) -> Program:
    """One program on this side of the split (the whole text decides)."""

    def make() -> Program:
        roll = draw.random.random()
        if roll < 0.12:
            return _class(draw)
        return _loop(draw) if roll < 0.17 else function(draw, draw.one(RECIPES))

    while True:
        program = make()
        if held_out("program", program.source) == draw.held:
            return program


def with_usage(draw: Draw, program: Program) -> Program:
    """Sometimes a call below, as people have in a file they edit."""
    if program.calls and draw.chance(0.2):
        call = draw.one(program.calls)
        return Program(f"{program.source}\n\nprint({call})\n", program.calls)
    return program


@dataclass(frozen=True)
class Infill:
    prefix: str
    suffix: str
    middle: str
    calls: tuple[str, ...] = ()


def infill(draw: Draw) -> Infill:
    """Fill in the middle: usually the rest of a line in a body, in training also other spans."""
    if not draw.held and draw.chance(0.12):
        return _cut_anywhere(draw, stdlib_function(draw))
    program = with_usage(draw, any_program(draw))
    if draw.chance(0.2):
        program = Program(f"{any_program(draw).source}\n\n{program.source}", program.calls)
    if not draw.held and draw.chance(0.2):
        return _cut_anywhere(draw, program.source)
    return _cut_line(draw, program)


def _cut_line(draw: Draw, program: Program) -> Infill:
    """Cut a body line from its indent, or after its first word, to its end or to the end of the function."""
    lines = program.source.split("\n")
    body = [i for i, line in enumerate(lines) if line.startswith("    ") and '"""' not in line]
    at = draw.one([i for i in body if not lines[i].lstrip().startswith("def ")])
    start, line = sum(len(x) + 1 for x in lines[:at]), lines[at]
    indent = len(line) - len(line.lstrip())
    space = line.find(" ", indent)
    from_word = space > 0 and draw.chance(0.5)
    end = start + len(line)
    if draw.chance(0.2):
        block_end = program.source.find("\n\n", start)
        end = block_end if block_end > 0 else len(program.source) - 1
    start += space + 1 if from_word else indent
    if draw.chance(0.1):
        start -= 1 if from_word else indent
    source = program.source
    return Infill(source[:start], source[end:], source[start:end], program.calls)


def _cut_anywhere(draw: Draw, source: str) -> Infill:
    start, end = sorted(draw.random.sample(range(1, len(source)), 2))
    end = min(end, start + 60)
    return Infill(source[:start], source[end:], source[start:end])


def completion(draw: Draw) -> Infill:
    """Left to right: a header, perhaps with a function above it; the model writes the rest and stops."""
    if not draw.held and draw.chance(0.12):
        source = stdlib_function(draw)
        cut = source.index("\n", draw.number(0, len(source) // 2)) + 1
        return Infill(source[:cut], "", source[cut:].rstrip("\n"))
    program = any_program(draw)
    lines = program.source.split("\n")
    cut = _head_length(lines)
    prefix = "\n".join(lines[:cut]) + "\n"
    rest = program.source[len(prefix) :].rstrip("\n")
    if draw.chance(0.2):
        prefix, rest = prefix[:-1], "\n" + rest
    above = f"{any_program(draw).source}\n\n" if draw.chance(0.2) else ""
    return Infill(above + prefix, "", rest, program.calls)


def _head_length(lines: list[str]) -> int:
    """Lines that the rest follows from: the last method's header, or the header and its docstring."""
    if lines[0].startswith("class"):
        return max(i for i, line in enumerate(lines) if line.lstrip().startswith("def ")) + 1
    return 2 if '"""' in lines[1] or not lines[0].endswith(":") else 1


ASK_FUNCTION = choices("""
Write a Python function that {d}.|Write a function that {d}.|Python function that {d}|
Can you write a Python function that {d}?|Give me a function that {d}.|Write Python code that {d}.|
Please write a Python function that {d}.|I need a Python function that {d}.|
Implement a function that {d}.|write a python function that {d}|Show me a Python function that {d}.|
Write a Python function to {b}.|Write a function to {b}.|Write Python code to {b}.|
How do I {b} in Python?
""")
ASK_NAMED = choices("""
Write a Python function called {f} that {d}.|Write a function {f} that {d}.|
Write a Python function {f} that {d}.|Implement {f}, a function that {d}.|
Define a function named {f} that {d}.
""")
CONSTANT = [
    ("adds {K} to a number", "add_{K}", "return {A} + {K}"),
    ("multiplies a number by {K}", "times_{K}", "return {A} * {K}"),
    ("subtracts {K} from a number", "minus_{K}", "return {A} - {K}"),
]


def request(draw: Draw) -> tuple[str, Program]:
    """A request in chat and the function that answers it."""
    return draw.split("request", lambda: _request(draw))


def _request(draw: Draw) -> tuple[str, Program]:
    recipe = draw.one([recipe for recipe in RECIPES if recipe.asks])
    if draw.chance(0.15):
        number = str(draw.number(2, 50))
        ask, name, body = (part.replace("{K}", number) for part in draw.one(CONSTANT))
        recipe = Recipe(name, "A", body, "4|7", ask)
    ask = draw.one(recipe.asks.split("|"))
    if draw.chance(0.5):
        verb, _, rest = ask.partition(" ")
        bare = f"{verb[:-3]}y" if verb.endswith("ies") else verb[:-1]
        return draw.one(ASK_FUNCTION).format(d=ask, b=f"{bare} {rest}"), function(draw, recipe, canonical=True)
    name = draw.one(recipe.names.split())
    if draw.chance(0.6):
        name = draw.one(["my_", "do_", "", "f_"]) + (draw.any_word() if draw.chance(0.7) else draw.pseudo_word())
    if name in KEYWORDS:
        name = f"my_{name}"
    return draw.one(ASK_NAMED).format(d=ask, f=name), function(draw, recipe, name, canonical=True)


KEYWORDS = frozenset(
    table("""
and as assert async await break class continue def del elif else except finally for from global if import in
is lambda nonlocal not or pass raise return try while with yield items item len list max min print range set
sorted sum
""")
)


@functools.cache
def stdlib_functions() -> tuple[str, ...]:
    """Functions of at most twelve lines and 420 characters, docstrings removed."""
    found: list[str] = []
    for source in stdlib_sources():
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                found += _short_function(source, node)
    return tuple(text for text in sorted(set(found)) if not held_out("stdlib", text))


def _short_function(source: str, node: ast.FunctionDef) -> list[str]:
    """The function's text if it is short; a docstring is cut out by line numbers."""
    lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(node.body) > 1:
        del lines[first.lineno - node.lineno : (first.end_lineno or 0) - node.lineno + 1]
    text = textwrap.dedent("\n".join(line for line in lines if line.strip())) + "\n"
    good = 3 <= len(text.splitlines()) <= 12 and 40 <= len(text) <= 420 and text.isascii() and text.startswith("def ")
    return [text] if good else []


def stdlib_function(draw: Draw) -> str:
    return draw.one(stdlib_functions())
