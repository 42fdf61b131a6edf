"""Questions about one picture or two, with their answers, made from the scene."""

from collections.abc import Callable

from training.draw import Draw
from training.knowledge import casual
from training.pictures import RGB, SHAPES, Scene, Thing
from training.words import choices

Turn = tuple[str, str]

NUMBERS = ["no", "one", "two", "three", "four"]
DESCRIBE = choices("""
Describe the image.|What do you see?|Describe this picture.|What is in the image?|Describe this image.|
What is in this picture?|Describe what you see.|What does the image show?
""")


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def short(thing: Thing) -> str:
    return f"{article(thing.colour)} {thing.colour} {thing.shape}"


def sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def description(scene: Scene) -> str:
    if scene.kind == "shapes":
        return sentence(listed([f"{short(thing)} {thing.spot}" for thing in scene.things]))
    return f"The {scene.kind} {scene.text}."


def number_of(count: int, noun: str) -> str:
    if count == 1:
        return f"There is one {noun}."
    return f"There are {NUMBERS[count]} {noun}s."


def describe(draw: Draw, scene: Scene) -> list[Turn]:
    return [(draw.one(DESCRIBE), description(scene))]


def shape(draw: Draw, scene: Scene) -> list[Turn]:
    """The shape of a lone thing, or the thing at a spot."""
    turns = [
        (
            f"{draw.one(['What is', 'Which shape is', 'What do you see'])} {thing.spot}?",
            sentence(short(thing)),
        )
        for thing in scene.things
    ]
    if len(scene.things) == 1:
        asks = [
            "What shape is this?",
            "Which shape is this?",
            "What shape do you see?",
            "What shape is in the image?",
        ]
        turns += [(draw.one(asks), f"It is a {scene.things[0].shape}.")] * 2
    return turns


def colour(draw: Draw, scene: Scene) -> list[Turn]:
    turns = []
    shapes = [thing.shape for thing in scene.things]
    for thing in scene.things:
        reply = f"The {thing.shape} is {thing.colour}."
        if shapes.count(thing.shape) == 1:
            ask = draw.one(["What colour is the %s?", "Which colour is the %s?", "What color is the %s?"])
            turns.append((ask % thing.shape, reply))
        if len(shapes) == 1:
            asks = [
                "What colour is the shape?",
                "What colour is this?",
                "What color is the shape?",
                "What color is it?",
            ]
            turns.append((draw.one(asks), reply))
    return turns


def count(draw: Draw, scene: Scene) -> list[Turn]:
    asks = [
        "How many shapes are there?",
        "How many shapes?",
        "How many shapes do you see?",
        "Count the shapes.",
        "How many shapes are in the image?",
    ]
    kind = draw.one(SHAPES)
    per_kind = [thing.shape for thing in scene.things].count(kind)
    total = (draw.one(asks), number_of(len(scene.things), "shape"))
    by_kind = draw.one([f"How many {kind}s are there?", f"How many {kind}s do you see?", f"Count the {kind}s."])
    return [total, total, (by_kind, number_of(per_kind, kind))]


def position(draw: Draw, scene: Scene) -> list[Turn]:
    turns = []
    for thing in scene.things:
        same_shape = sum(other.shape == thing.shape for other in scene.things)
        full = f"{thing.colour} {thing.shape}"
        if same_shape == 1:
            turns.append((f"Where is the {thing.shape}?", f"The {thing.shape} is {thing.spot}."))
        turns.append((f"Where is the {full}?", f"The {full} is {thing.spot}."))
    return turns


def presence(draw: Draw, scene: Scene) -> list[Turn]:
    """Yes or no; half of the asked colours and shapes are there."""
    thing = draw.one(scene.things)
    kind, shade = draw.one([thing.shape, *SHAPES]), draw.one([thing.colour, thing.colour, *RGB])
    has_kind = kind in {other.shape for other in scene.things}
    has_shade = shade in {other.colour for other in scene.things}
    forms = ["Is there %s %s?", "Do you see %s %s?", "Is there %s %s in the image?"]
    return [
        (draw.one(forms) % (article(kind), kind), "Yes." if has_kind else "No."),
        (draw.one(forms) % (article(shade), f"{shade} shape"), "Yes." if has_shade else "No."),
    ]


def ground(draw: Draw, scene: Scene) -> list[Turn]:
    """The background, where its name is beyond doubt."""
    total = sum(scene.background)
    spread = max(scene.background) - min(scene.background)
    name = "black" if total < 130 and spread < 20 else "white" if total > 715 else ""
    asks = [
        "What colour is the background?",
        "Which colour is the background?",
        "What is the background colour?",
    ]
    return [(draw.one(asks), f"The background is {name}.")] if name else []


def reading(draw: Draw, scene: Scene) -> list[Turn]:
    if scene.kind == "number":
        asks = "What number is this?|Which number is this?|Read the number.|What number do you see?|What is the number?"
        return [(draw.one(asks.split("|")), f"The number is {scene.text}.")]
    asks = (
        "What does the text say?|Read the text.|Read the word.|What word is this?|"
        "What is written here?|What does it say?"
    )
    return [(draw.one(asks.split("|")), f"The text says {scene.text}.")]


SHAPE_JOBS: dict[str, Callable[[Draw, Scene], list[Turn]]] = {
    "shape": shape,
    "colour": colour,
    "count": count,
    "position": position,
    "presence": presence,
    "describe": describe,
    "ground": ground,
}
SHAPE_WEIGHTS = [9, 9, 22, 23, 25, 8, 4]


def question(draw: Draw, scene: Scene, job: str = "") -> Turn:
    """A question of the given job, or of any that suits the scene. A job may have no question for a scene."""
    while True:
        if scene.kind == "shapes":
            chosen = job or draw.random.choices(list(SHAPE_JOBS), SHAPE_WEIGHTS)[0]
            turns = SHAPE_JOBS[chosen](draw, scene)
        else:
            turns = describe(draw, scene) if not job and draw.chance(0.25) else reading(draw, scene)
        if turns:
            ask, reply = draw.one(turns)
            return casual(draw, ask) if not draw.held else ask, reply
        if job:
            raise LookupError(f"no question of job {job!r} for this scene")


ORDER = ["first", "second"]


def both(draw: Draw, scenes: tuple[Scene, Scene], job: str = "") -> Turn:
    """A question about two pictures in one turn."""
    job = job or draw.random.choices(["pick", "same", "which", "describe_both"], [17, 39, 40, 4])[0]
    lone = all(len(scene.things) == 1 for scene in scenes)
    if job == "which" and lone and scenes[0].things[0].shape != scenes[1].things[0].shape:
        return _which(draw, scenes, by_colour=scenes[0].things[0].colour != scenes[1].things[0].colour)
    if job in ("same", "which") and lone:
        return _same(draw, scenes)
    if job == "describe_both":
        return _describe_both(draw, scenes)
    return _pick(draw, scenes)


def _which(draw: Draw, scenes: tuple[Scene, Scene], by_colour: bool) -> Turn:
    target = draw.number(0, 1)
    thing = scenes[target].things[0]
    words = [f"a {thing.shape}"]
    if by_colour:
        words += [f"{article(thing.colour)} {thing.colour} shape", short(thing)]
    ask = draw.one(
        [
            "Which image shows %s, the first or the second?",
            "Which image shows %s?",
            "Which image has %s?",
            "Is %s in the first or the second image?",
            "In which image is %s?",
        ]
    )
    return ask % draw.one(words), f"The {ORDER[target]} image."


def _same(draw: Draw, scenes: tuple[Scene, Scene]) -> Turn:
    first, second = scenes[0].things[0], scenes[1].things[0]
    if draw.chance(0.5):
        asks = [
            "Are the two images the same colour?",
            "Are the two shapes the same colour?",
            "Do both images show the same colour?",
            "Are the shapes in both images the same color?",
        ]
        return draw.one(asks), "Yes." if first.colour == second.colour else "No."
    asks = [
        "Do both images show the same shape?",
        "Are the two shapes the same?",
        "Is it the same shape in both images?",
    ]
    return draw.one(asks), "Yes." if first.shape == second.shape else "No."


def _describe_both(draw: Draw, scenes: tuple[Scene, Scene]) -> Turn:
    parts = [description(scene)[:-1] for scene in scenes]
    parts = [f"{part[0].lower()}{part[1:]}" for part in parts]
    asks = [
        "Describe both images.",
        "Describe the two images.",
        "What do you see in the two images?",
        "Describe the images.",
    ]
    return draw.one(asks), f"The first image shows {parts[0]}. The second image shows {parts[1]}."


def _pick(draw: Draw, scenes: tuple[Scene, Scene]) -> Turn:
    """A question about one of the two."""
    target = draw.number(0, 1)
    scene, place = scenes[target], f"the {ORDER[target]} image"
    options = [(draw.one(["What is in %s?", "Describe %s.", "What does %s show?"]) % place, description(scene))] * 2
    if scene.kind != "shapes":
        noun = "number" if scene.kind == "number" else "word"
        reply = f"The number is {scene.text}." if noun == "number" else f"The text says {scene.text}."
        return draw.one([*options, (f"What {noun} is in {place}?", reply), (f"Read the {noun} in {place}.", reply)])
    options.append((f"How many shapes are in {place}?", number_of(len(scene.things), "shape")))
    if len(scene.things) == 1:
        thing = scene.things[0]
        reply = f"The {thing.shape} is {thing.colour}."
        options += [
            (f"What colour is the shape in {place}?", reply),
            (f"What color is the shape in {place}?", reply),
        ]
        options.append((f"What shape is in {place}?", f"It is a {thing.shape}."))
    return draw.one(options)
