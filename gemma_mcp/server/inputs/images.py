"""Images in a prompt: paths, data URIs or base64, checked before they are decoded, all sent on as PNG.

Pillow is imported when the first image comes: a server that never sees one answers sooner.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import anyio.to_thread

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.arguments import Detail
from gemma_mcp.server.inputs.paths import PathPolicy, shorten

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
DATA_URI = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)?(?P<options>(?:;[\w.+=-]+)*),(?P<data>.*)", re.DOTALL)
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
            raise InputRefusedError(
                "images", f"{len(specs)} were given, more than the {self.limits.images} that server.max_images allows"
            )
        return await anyio.to_thread.run_sync(lambda: [self._prepare(n, s, detail) for n, s in enumerate(specs, 1)])

    def _prepare(self, number: int, spec: str, detail: Detail) -> PreparedImage:
        name, data = self._bytes(number, spec.strip())
        if len(data) > self.limits.file_bytes:
            raise InputRefusedError(
                name, f"it has {len(data):,} bytes, more than the {self.limits.file_bytes:,} that are allowed"
            )
        image = _decode(name, data, self.limits.pixels)
        return _encode(name, image, LONGEST_SIDE[detail])

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
        return shorten(spec), self.policy.read(spec, self.limits.file_bytes).data


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


def _decode(name: str, data: bytes, max_pixels: int) -> "Image":
    """The first frame, turned as its EXIF data says, on white, as RGB."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                why = f"it has {image.width}x{image.height} pixels, more than the {max_pixels:,} that are allowed"
                raise InputRefusedError(name, why, "Send a smaller one.")
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except InputRefusedError:
        raise
    except UnidentifiedImageError:
        raise InputRefusedError(name, "it is not an image", f"Formats: {', '.join(FORMATS)}.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputRefusedError(name, "it has too many pixels", "Send a smaller one.") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on a corrupt file
        raise InputRefusedError(name, "it is a damaged image") from error


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
