"""Pictures drawn by rule: coloured shapes, numbers and words on canvases of any aspect ratio."""

import functools
import math
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from training.draw import Draw, held_out
from training.words import table

SIZE = 112  # what the image tower sees
CELLS = 4  # pooled cells, hence image tokens, per side
RGB = dict(
    red=(220, 30, 30), green=(30, 160, 50), blue=(30, 60, 220), yellow=(250, 220, 30), orange=(250, 140, 20),
    purple=(130, 40, 170), pink=(250, 130, 190), black=(15, 15, 15), white=(245, 245, 245),
)  # fmt: skip
CSS = dict(
    red=(255, 0, 0), green=(0, 128, 0), blue=(0, 0, 255), yellow=(255, 255, 0), orange=(255, 165, 0),
    purple=(128, 0, 128), pink=(255, 192, 203), black=(0, 0, 0), white=(255, 255, 255),
)  # fmt: skip
LIGHT = [(255, 255, 255)] * 5 + [(240, 240, 240), (225, 225, 225), (250, 245, 225), (225, 240, 250)]
DARK = [(10, 10, 10), (30, 30, 35), (20, 25, 50), (45, 45, 45)]
MIDDLE = [(128, 128, 128), (160, 160, 160), (150, 180, 200), (190, 180, 160), (90, 90, 100)]
SHAPES = ["circle", "square", "triangle"]
SPOTS = {
    "on the left": (0.25, 0.5), "on the right": (0.75, 0.5), "at the top": (0.5, 0.25),
    "at the bottom": (0.5, 0.75), "in the middle": (0.5, 0.5), "in the top left": (0.25, 0.25),
    "in the top right": (0.75, 0.25), "in the bottom left": (0.25, 0.75), "in the bottom right": (0.75, 0.75),
}  # fmt: skip
SINGLE = list(SPOTS)[:5]
PAIRS = [("on the left", "on the right"), ("at the top", "at the bottom")]
CORNERS = list(SPOTS)[5:]
WORDS = table("""
CAT DOG SUN RED BLUE YES NO STOP GO HELLO OPEN EXIT TREE FISH STAR MOON BOOK HOME ONE TWO HELP PUSH PULL TAXI
CAFE MENU SALE NEW
""")
CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Thing:
    """A shape: centre as a share of the canvas, radius as a share of its shorter side."""

    shape: str
    colour: str
    spot: str
    x: float
    y: float
    radius: float
    shade: tuple[int, int, int]
    outline: bool = False


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn. `text` is the number or word that stands in it, if any."""

    width: int
    height: int
    background: tuple[int, int, int]
    things: tuple[Thing, ...] = ()
    text: str = ""
    ink: str = "black"
    text_size: float = 0.0
    text_at: tuple[float, float] = (0.5, 0.5)
    kind: str = "shapes"


def contrast(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    return math.dist(a, b)


def shade(draw: Draw, colour: str) -> tuple[int, int, int]:
    """Somewhere between two ideas of a colour: ours and the web's."""
    share = draw.random.random()
    mixed = tuple(round(a + share * (b - a)) for a, b in zip(RGB[colour], CSS[colour], strict=True))
    return jitter(draw, mixed)


def visible(draw: Draw, background: tuple[int, int, int], colours: list[str]) -> str:
    return draw.one([colour for colour in colours if contrast(RGB[colour], background) > 110])


def canvas(draw: Draw) -> tuple[int, int]:
    """Square in four of ten cases, otherwise up to about 1 : 2.2, now and then up to 1 : 3."""
    short = draw.number(96, 300)
    if draw.chance(0.4):
        return short, short
    ratio = math.exp(draw.random.uniform(0, math.log(3.0 if draw.chance(0.1) else 2.2)))
    long = round(short * ratio)
    return (long, short) if draw.chance(0.5) else (short, long)


def jitter(draw: Draw, colour: tuple[int, int, int], by: int = 14) -> tuple[int, int, int]:
    r, g, b = (max(0, min(255, value + draw.number(-by, by))) for value in colour)
    return r, g, b


def background(draw: Draw) -> tuple[int, int, int]:
    roll = draw.random.random()
    return jitter(draw, draw.one(LIGHT if roll < 0.72 else DARK if roll < 0.88 else MIDDLE), 8)


def _things(draw: Draw, spots: list[str], ground: tuple[int, int, int], stretched: bool) -> tuple[Thing, ...]:
    """One shape per spot; no two of the same shape and colour."""
    low, high = {1: (0.13, 0.3), 2: (0.12, 0.21)}.get(len(spots), (0.12, 0.19))
    low += 0.04 if stretched else 0
    found: list[Thing] = []
    for spot in spots:
        while True:
            shape, colour = draw.one(SHAPES), visible(draw, ground, list(RGB))
            if (shape, colour) not in {(thing.shape, thing.colour) for thing in found}:
                break
        x, y = (value + draw.random.uniform(-0.055, 0.055) for value in SPOTS[spot])
        radius = draw.random.uniform(low, max(low, high))
        place = (round(x, 3), round(y, 3), round(radius, 3))
        found.append(Thing(shape, colour, spot, *place, shade(draw, colour), draw.chance(0.12)))
    return tuple(found)


def shapes_scene(draw: Draw) -> Scene:
    width, height = canvas(draw)
    ground = background(draw)
    count = draw.random.choices([1, 2, 3, 4], [40, 30, 16, 14])[0]
    if count == 1:
        spots = [draw.one(SINGLE)]
    elif count == 2:
        spots = list(draw.one(PAIRS))
    else:
        spots = sorted(draw.random.sample(CORNERS, count), key=CORNERS.index)
    stretched = max(width, height) > 1.6 * min(width, height)
    return Scene(width, height, ground, _things(draw, spots, ground, stretched))


def text_scene(draw: Draw, kind: str) -> Scene:
    """A number below 100 or a short word, large enough to be read at 112 pixels."""
    width, height = canvas(draw)
    if kind == "word" and height > 1.3 * width:
        width, height = height, width  # a word on a narrow upright canvas would be too small to read
    ground = background(draw)
    if kind == "number":
        text = str(draw.split("picture-number", lambda: draw.number(0, 99)))
    elif draw.held or draw.chance(0.8):
        text = draw.one(WORDS)
    else:
        text = "".join(draw.one(CHARACTERS[10:]) for _ in range(draw.number(1, 3)))
    wanted = draw.random.uniform(0.4, 0.65) if kind == "number" else draw.random.uniform(0.22, 0.32)
    fits = 0.92 * width / (font(100).getlength(text) / 100) / height
    size = min(wanted * max(width, height) / height, fits, 0.8)
    at = (0.5 + draw.random.uniform(-0.08, 0.08), 0.5 + draw.random.uniform(-0.08, 0.08))
    ink = visible(draw, ground, ["black", "black", "black", "red", "blue", "green", "purple", "white", "white"])
    return Scene(width, height, ground, (), text, ink, round(size, 3), at, kind)


def scene(draw: Draw, kind: str = "") -> Scene:
    """A scene on this side of the split: its whole layout decides."""
    kind = kind or draw.random.choices(["shapes", "number", "word"], [74, 15, 11])[0]
    while True:
        made = shapes_scene(draw) if kind == "shapes" else text_scene(draw, kind)
        if held_out("scene", made) == draw.held:
            return made


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


def _text_box(made: Scene) -> tuple[float, float, ImageFont.FreeTypeFont]:
    """Left and top of the text, kept inside the canvas, and its font."""
    used = font(max(8, round(made.text_size * made.height)))
    left, top, right, bottom = used.getbbox(made.text)
    x = made.text_at[0] * made.width - (right - left) / 2
    y = made.text_at[1] * made.height - (bottom - top) / 2
    x = min(max(x, 2), max(2, made.width - (right - left) - 2))
    y = min(max(y, 2), max(2, made.height - (bottom - top) - 2))
    return x - left, y - top, used


def render(made: Scene) -> Image.Image:
    image = Image.new("RGB", (made.width, made.height), made.background)
    pen = ImageDraw.Draw(image)
    for thing in made.things:
        _draw_thing(pen, thing, made)
    if made.text:
        x, y, used = _text_box(made)
        pen.text((x, y), made.text, font=used, fill=RGB[made.ink])
    return image


def _draw_thing(pen: ImageDraw.ImageDraw, thing: Thing, made: Scene) -> None:
    x, y, r = thing.x * made.width, thing.y * made.height, thing.radius * min(made.width, made.height)
    line = {"outline": (60, 60, 60), "width": max(1, round(r / 14))} if thing.outline else {}
    if thing.shape == "circle":
        pen.ellipse([x - r, y - r, x + r, y + r], fill=thing.shade, **line)
    elif thing.shape == "square":
        pen.rectangle([x - 0.9 * r, y - 0.9 * r, x + 0.9 * r, y + 0.9 * r], fill=thing.shade, **line)
    else:
        pen.polygon([(x, y - r), (x - r, y + 0.8 * r), (x + r, y + 0.8 * r)], fill=thing.shade, **line)


def letterbox(image: Image.Image) -> Image.Image:
    """What llama.cpp does: keep the aspect ratio, centre, fill up with black."""
    scale = min(SIZE / image.width, SIZE / image.height)
    width, height = min(SIZE, math.ceil(image.width * scale)), min(SIZE, math.ceil(image.height * scale))
    out = Image.new("RGB", (SIZE, SIZE))
    out.paste(image.resize((width, height), Image.Resampling.BILINEAR), ((SIZE - width) // 2, (SIZE - height) // 2))
    return out


def cell_labels(made: Scene) -> list[tuple[int, int, int]]:
    """Shape, colour and character (0: none) in each of the 16 cells of the letterboxed picture."""
    labels = [(0, 0, 0)] * CELLS**2
    scale = SIZE / max(made.width, made.height)
    left, top = (SIZE - made.width * scale) / 2, (SIZE - made.height * scale) / 2
    for thing in made.things:
        x, y = left + thing.x * made.width * scale, top + thing.y * made.height * scale
        reach = thing.radius * min(made.width, made.height) * scale + 4
        value = (SHAPES.index(thing.shape) + 1, list(RGB).index(thing.colour) + 1, 0)
        for cell in _cells(x - reach, y - reach, x + reach, y + reach):
            labels[cell] = value
    if made.text:
        x, y, used = _text_box(made)
        box = used.getbbox(made.text)
        for i, character in enumerate(made.text):
            middle = x + (used.getlength(made.text[:i]) + used.getlength(made.text[: i + 1])) / 2
            at, code = left + middle * scale, CHARACTERS.index(character) + 1
            for cell in _cells(at - 1, top + (y + box[1]) * scale, at + 1, top + (y + box[3]) * scale, whole=True):
                labels[cell] = (0, 0, code)
    return labels


def _cells(left: float, top: float, right: float, bottom: float, whole: bool = False) -> list[int]:
    """Cells whose centre lies in the box; with `whole`, the column of the box's middle whatever its width."""
    side = SIZE / CELLS
    columns = [c for c in range(CELLS) if left < (c + 0.5) * side < right]
    rows = [r for r in range(CELLS) if top < (r + 0.5) * side < bottom]
    if whole:
        columns = [min(CELLS - 1, max(0, int((left + right) / 2 / side)))]
        rows = rows or [min(CELLS - 1, max(0, int((top + bottom) / 2 / side)))]
    return [row * CELLS + column for row in rows for column in columns]
