"""Images in a prompt: paths, data URIs or base64, checked before they are decoded, all sent on as PNG.

Pillow is imported when the first image comes: a server that never sees one answers sooner.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.arguments import Detail
from gemma_mcp.server.inputs.globs import Found, find_files, is_glob
from gemma_mcp.server.inputs.path_forms import shorten
from gemma_mcp.server.inputs.paths import PathPolicy

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["LONGEST_SIDE", "ImageLimits", "Images", "PreparedImage"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

LONGEST_SIDE: dict[Detail, int] = {"low": 448, "auto": 1792, "high": 3584}
"""Pixels of the longest side that are kept. Gemma 3 looks at squares of 896: half of one, two, four."""

MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
"""How files of FORMATS begin; it tells base64 of an image from a path."""

BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
LONGEST_PATH = 4096
DATA_URI = re.compile(
    r"data:(?P<type>[\w.+-]+/[\w.+-]+)?(?P<options>(?:;[\w.+=-]+)*),(?P<data>.*)", re.DOTALL | re.IGNORECASE
)
OTHERS = {
    "HEIC": re.compile(rb".{4}ftyp(?:hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL),
    "AVIF": re.compile(rb".{4}ftypavi[fs]", re.DOTALL),
    "JPEG XL": re.compile(rb"\xff\x0a|\0\0\0\x0cJXL ", re.DOTALL),
    "PDF": re.compile(rb"%PDF-"),
    "SVG": re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml.*?)?(?:<!.*?)?<svg[\s/>]", re.DOTALL),
    "PSD": re.compile(rb"8BPS"),
    "ICO": re.compile(rb"\0\0\x01\0"),
}
"""Formats that people take for images and that are not decoded: converting them is a line, their decoders are not."""

SNIFFED_BYTES = 1024
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class ImageLimits:
    """`pixels` before scaling; `file_bytes` of an image as a file, decoded from base64."""

    images: int
    file_bytes: int
    pixels: int


@dataclass(frozen=True)
class PreparedImage:
    """A PNG as data URI, its size in pixels, and what was done to it that a reader should know."""

    url: str
    width: int
    height: int
    note: str = ""


@dataclass(frozen=True)
class Images:
    """Reads images under a path policy."""

    policy: PathPolicy
    limits: ImageLimits

    async def read(self, specs: Sequence[str], detail: Detail) -> list[PreparedImage]:
        """The images in the order given. Raises InputRefusedError naming the image and the reason."""
        if len(specs) > self.limits.images:
            raise self._too_many(len(specs))
        return await anyio.to_thread.run_sync(partial(self._read_all, specs, detail), abandon_on_cancel=True)

    def _read_all(self, specs: Sequence[str], detail: Detail) -> list[PreparedImage]:
        """The whole list is known before the first image is decoded."""
        found = [self._expand(spec.strip()) for spec in specs]
        paths = [path for one in found for path in one.paths]
        if len(paths) > self.limits.images:
            raise self._too_many(len(paths))
        images = [self._prepare(number, path, detail) for number, path in enumerate(paths, 1)]
        notes = " · ".join(one.note for one in found if one.note)
        return [_noted(images[0], notes), *images[1:]] if images else []

    def _expand(self, spec: str) -> Found:
        """The files of a pattern; anything else as it is."""
        if len(spec) > LONGEST_PATH or spec[:5].lower() == "data:" or not is_glob(spec) or self.policy.exists(spec):
            return Found((spec,))
        return find_files(self.policy, spec, self.limits.images)

    def _too_many(self, count: int) -> InputRefusedError:
        why = f"{count:,} were given, more than the {self.limits.images} that server.max_images allows"
        return InputRefusedError("images", why, "Name fewer at once.")

    def _prepare(self, number: int, spec: str, detail: Detail) -> PreparedImage:
        name, data = self._bytes(number, spec)
        if len(data) > self.limits.file_bytes:
            raise InputRefusedError(
                name, f"it has {len(data):,} bytes, more than the {self.limits.file_bytes:,} that are allowed"
            )
        image, frames = _decode(name, data, self.limits.pixels)
        first = f"{name}: the first of its {frames} frames" if frames > 1 else ""
        return _noted(_encode(name, image, LONGEST_SIDE[detail]), first)

    def _bytes(self, number: int, spec: str) -> tuple[str, bytes]:
        """What to call the image, and its file."""
        if spec[:5].lower() == "data:":
            name = f"image {number}"
            return name, _from_data_uri(name, spec)
        data = _from_base64(spec)
        if data is not None and data.startswith(MAGIC) and not self.policy.exists(spec[:LONGEST_PATH]):
            return f"image {number}", data
        if len(spec) > LONGEST_PATH:
            raise InputRefusedError(f"image {number}", "it is neither a path nor base64 of an image")
        opened = self.policy.read(spec, self.limits.file_bytes)
        return (opened.name if Path(spec).is_absolute() else shorten(spec)), opened.data


def _from_base64(text: str) -> bytes | None:
    """The bytes, or None for what is not base64. Both alphabets and line breaks are taken."""
    packed = "".join(text.split())
    if not BASE64.fullmatch(packed):
        return None
    try:
        return base64.b64decode(packed.translate({45: "+", 95: "/"}) + "=" * (-len(packed) % 4), validate=True)
    except binascii.Error:
        return None


def _from_data_uri(name: str, spec: str) -> bytes:
    match = DATA_URI.fullmatch(spec)
    if match is None or ";base64" not in match["options"].lower():
        raise InputRefusedError(name, "its data URI is not of the form data:image/png;base64,…")
    data = _from_base64(match["data"])
    if not data:
        raise InputRefusedError(name, "its data URI does not hold valid base64")
    return data


def _noted(image: PreparedImage, note: str) -> PreparedImage:
    return replace(image, note=" · ".join(filter(None, (image.note, note))))


def _decode(name: str, data: bytes, max_pixels: int) -> "tuple[Image, int]":
    """The first frame, turned as its EXIF data says, on white, as RGB; and how many frames there are."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                why = f"it has {image.width}x{image.height} pixels, more than the {max_pixels:,} that are allowed"
                raise InputRefusedError(name, why, "Send a smaller one.")
            frames = getattr(image, "n_frames", 1)
            image.seek(0)
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image)), frames
    except InputRefusedError:
        raise
    except UnidentifiedImageError:
        raise InputRefusedError(name, _what_it_is(data), f"Formats: {', '.join(FORMATS)}.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputRefusedError(name, "it has too many pixels", "Send a smaller one.") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on a corrupt file
        raise InputRefusedError(name, "it is a damaged image") from error


def _what_it_is(data: bytes) -> str:
    """Why it is refused, by name where people wonder: it opens on their screens."""
    for name, form in OTHERS.items():
        if form.match(data[:SNIFFED_BYTES]):
            return f"{name} is not read here"
    return "it is not an image"


def _to_rgb(image: "Image") -> "Image":
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits a pixel: convert() would clip instead of scaling
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        page = Image.new("RGB", image.size, WHITE)
        page.paste(image, mask=image.getchannel("A"))
        return page
    return image.convert("RGB")


def _encode(name: str, image: "Image", longest: int) -> PreparedImage:
    from PIL import Image

    before = image.size
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    note = f"{name} scaled from {before[0]}x{before[1]} to {image.width}x{image.height}" if image.size != before else ""
    file = BytesIO()
    image.save(file, "PNG", compress_level=1)  # it travels over loopback only
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return PreparedImage(url, image.width, image.height, note)
