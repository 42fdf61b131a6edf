import base64
import os
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scripted_engine import Connect, ScriptedEngines, error_of, texts

from gemma_mcp.wire import ChatCompletionRequest, ImagePart, TextPart

RED, BLUE = (255, 0, 0), (0, 0, 255)


def picture(size: tuple[int, int] = (64, 32), colour: tuple[int, ...] = RED, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def as_file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def sent(engines: ScriptedEngines) -> list[Image.Image]:
    """The images of the last request, as the engine would decode them."""
    request = engines.requests[-1]
    assert isinstance(request, ChatCompletionRequest)
    content = request.messages[-1].content
    assert not isinstance(content, str)
    urls = [part.image_url.url for part in content if isinstance(part, ImagePart)]
    assert all(url.startswith("data:image/png;base64,") for url in urls)
    return [Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


async def look(connect: Connect, *images: str, **arguments: Any) -> str:
    """The provenance line of a call that works."""
    async with connect() as client:
        result = await client.call_tool("analyze_image", {"images": list(images), **arguments})
    assert not result.is_error, result.content
    return texts(result)[1]


async def refusal(connect: Connect, *images: str, **changes: Any) -> str:
    async with connect(**changes) as client:
        return error_of(await client.call_tool("analyze_image", {"images": list(images)}))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("way", ["path", "uri", "URI", "base64"])
async def test_every_format_arrives_as_png_by_every_way(
    connect: Connect, engines: ScriptedEngines, project: Path, kind: str, way: str
) -> None:
    data = as_file(picture(), kind)
    (project / "picture").write_bytes(data)
    code = base64.b64encode(data).decode()
    uris = {"uri": f"data:image/x;base64,{code}", "URI": f"DATA:IMAGE/X;BASE64,{code}"}
    await look(connect, (uris | {"path": "picture", "base64": code})[way])
    (image,) = sent(engines)
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 32))
    pixel = image.getpixel((5, 5))
    assert isinstance(pixel, tuple)
    assert max(abs(a - b) for a, b in zip(pixel, RED, strict=True)) < 8


async def test_several_images_keep_their_order_before_the_question(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    (project / "a.png").write_bytes(as_file(picture((10, 20))))
    (project / "b.png").write_bytes(as_file(picture((30, 40))))
    await look(connect, "b.png", "a.png", question="Which is larger?", detail="low")
    assert [image.size for image in sent(engines)] == [(30, 40), (10, 20)]
    request = engines.requests[0]
    assert isinstance(request, ChatCompletionRequest)
    (message,) = request.messages
    *images, question = message.content
    assert question == TextPart(text="Which is larger?")
    assert [part.image_url.detail for part in images if isinstance(part, ImagePart)] == ["low", "low"]
    assert request.temperature == 0


async def test_without_a_question_the_image_is_described(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    (project / "a.png").write_bytes(as_file(picture()))
    await look(connect, "a.png")
    request = engines.requests[0]
    assert isinstance(request, ChatCompletionRequest)
    assert request.messages[0].content[-1] == TextPart(text="Describe this image.")


@pytest.mark.parametrize(("detail", "side"), [("low", 448), ("auto", 1792), ("high", 3584)])
async def test_detail_bounds_the_longest_side_and_the_result_says_so(
    connect: Connect, engines: ScriptedEngines, project: Path, detail: str, side: int
) -> None:
    (project / "wide.png").write_bytes(as_file(picture((4000, 100))))
    line = await look(connect, "wide.png", detail=detail)
    (image,) = sent(engines)
    assert image.width == side
    assert f"wide.png scaled from 4000x100 to {side}x" in line


async def test_a_small_image_is_not_scaled(connect: Connect, engines: ScriptedEngines, project: Path) -> None:
    (project / "dot.png").write_bytes(as_file(picture((1, 1))))
    assert "scaled" not in await look(connect, "dot.png")
    assert sent(engines)[0].size == (1, 1)


async def test_the_orientation_of_a_camera_is_applied(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    image = picture((40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees
    (project / "photo.jpg").write_bytes(as_file(image, "JPEG", exif=exif))
    await look(connect, "photo.jpg")
    assert sent(engines)[0].size == (20, 40)


def with_palette() -> Image.Image:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 255, 255, 0, 0])
    image.info["transparency"] = 0
    return image


@pytest.mark.parametrize(
    "make",
    [
        lambda: picture((8, 8), (0, 0, 0, 0), "RGBA"),
        lambda: picture((8, 8), (0, 0), "LA"),
        with_palette,
    ],
    ids=["RGBA", "LA", "P"],
)
async def test_what_is_transparent_becomes_white(
    connect: Connect, engines: ScriptedEngines, project: Path, make: Callable[[], Image.Image]
) -> None:
    (project / "a.png").write_bytes(as_file(make()))
    await look(connect, "a.png")
    assert sent(engines)[0].getpixel((3, 3)) == (255, 255, 255)


async def test_sixteen_bits_are_scaled_to_eight(connect: Connect, engines: ScriptedEngines, project: Path) -> None:
    (project / "deep.png").write_bytes(as_file(Image.new("I;16", (8, 8), 128 * 256)))
    await look(connect, "deep.png")
    assert sent(engines)[0].getpixel((3, 3)) == (128, 128, 128)


async def test_an_animation_shows_its_first_frame(connect: Connect, engines: ScriptedEngines, project: Path) -> None:
    frames = [picture((8, 8), RED), picture((8, 8), BLUE)]
    (project / "a.gif").write_bytes(as_file(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    await look(connect, "a.gif")
    assert sent(engines)[0].getpixel((3, 3)) == RED


async def test_frames_that_are_not_looked_at_are_told(connect: Connect, project: Path) -> None:
    frames = [picture((8, 8), colour) for colour in (RED, BLUE, RED)]
    (project / "a.gif").write_bytes(as_file(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    (project / "a.tif").write_bytes(as_file(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
    line = await look(connect, "a.gif", "a.tif")
    assert "a.gif: the first of its 3 frames" in line
    assert "a.tif: the first of its 3 frames" in line


async def test_a_pattern_names_images_in_order(connect: Connect, engines: ScriptedEngines, project: Path) -> None:
    (project / "shots").mkdir()
    for number in (3, 1, 2):
        (project / "shots" / f"{number}.png").write_bytes(as_file(picture((number, 10))))
    (project / "shots" / "key.pem").write_bytes(b"k")
    line = await look(connect, "shots/*.png", "shots/2.png")
    assert [image.width for image in sent(engines)] == [1, 2, 3, 2]
    assert "left out" not in line
    assert "3 files match, more than the 2" in await refusal(connect, "shots/*.png", max_images=2)
    assert "4 were given, more than the 3" in await refusal(connect, "shots/*.png", "shots/1.png", max_images=3)
    assert "it matches no file" in await refusal(connect, "shots/*.jpg")
    assert "all that it matches is secret" in await refusal(connect, "shots/*.pem")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"%PDF-1.7\n", "PDF"),
        (b"<svg/>", "SVG"),
        (b'<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg xmlns="http://www.w3.org/2000/svg">', "SVG"),
        (b"8BPS\0\1", "PSD"),
        (b"\0\0\1\0\1\0", "ICO"),
    ],
)
async def test_formats_that_are_not_read_are_named(connect: Connect, project: Path, data: bytes, name: str) -> None:
    (project / "x").write_bytes(data)
    text = await refusal(connect, "x")
    assert text == f"x: {name} is not read here. Formats: PNG, JPEG, WEBP, GIF, BMP, TIFF."


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("http://example.org/a.png", "it is a web address, and nothing is fetched"),
        ("id_rsa", "by its name it holds secrets"),
        ("alias.png", "by its name it holds secrets"),
        ("/dev/zero", "outside the project folder"),
        ("/proc/self/mem", "outside the project folder"),
    ],
)
async def test_the_policy_of_paths_holds_for_images(connect: Connect, project: Path, path: str, reason: str) -> None:
    (project / "id_rsa").write_bytes(as_file(picture()))
    (project / "alias.png").symlink_to("id_rsa")
    assert reason in await refusal(connect, path)


async def test_colours_for_printing_are_converted(connect: Connect, engines: ScriptedEngines, project: Path) -> None:
    (project / "a.jpg").write_bytes(as_file(picture((8, 8), (0, 255, 255, 0), "CMYK"), "JPEG"))
    await look(connect, "a.jpg")
    pixel = sent(engines)[0].getpixel((3, 3))
    assert isinstance(pixel, tuple)
    assert max(abs(a - b) for a, b in zip(pixel, RED, strict=True)) < 12


async def test_a_file_is_meant_when_its_name_could_be_base64(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    (project / "Qk0A").write_bytes(as_file(picture((3, 5))))  # base64 of what begins like a BMP
    await look(connect, "Qk0A")
    assert sent(engines)[0].size == (3, 5)


async def test_base64_may_be_wrapped_and_url_safe(connect: Connect, engines: ScriptedEngines) -> None:
    noise = Image.frombytes("RGB", (16, 16), bytes((i * 37) % 256 for i in range(768)))
    code = base64.urlsafe_b64encode(as_file(noise)).decode().rstrip("=")
    assert "-" in code or "_" in code
    await look(connect, "\n".join(code[i : i + 76] for i in range(0, len(code), 76)))
    assert sent(engines)[0].tobytes() == noise.tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
async def test_a_truncated_image_is_refused(connect: Connect, project: Path, kind: str) -> None:
    noise = Image.frombytes("RGB", (64, 64), bytes((i * i) % 251 for i in range(64 * 64 * 3)))
    data = as_file(noise, kind)
    (project / "half").write_bytes(data[: len(data) // 2])
    text = await refusal(connect, "half")
    assert text.startswith("half: it is a damaged image") or text.startswith("half: it is not an image")


@pytest.mark.parametrize("data", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n" + b"\xff" * 50])
async def test_what_is_no_image_is_refused(connect: Connect, project: Path, data: bytes) -> None:
    (project / "x.png").write_bytes(data)
    text = await refusal(connect, "x.png")
    assert text.startswith("x.png: it is a damaged image") or text.startswith("x.png: it is not an image. Formats: PNG")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("data:image/png,abc", "not of the form"),
        ("data:;base64", "not of the form"),
        ("data:image/png;base64,", "valid base64"),
        ("data:image/png;base64,a*b", "valid base64"),
        ("data:image/png;base64,abcde", "valid base64"),
        ("data:image/png;base64,aGVsbG8=", "it is not an image"),
        ("x" * 10_000, "neither a path nor base64"),
        ("?" * 10_000, "neither a path nor base64"),
        ("gone.png", "there is no such file"),
        ("../gone.png", "outside the project folder"),
    ],
)
async def test_what_cannot_be_an_image_is_refused_by_its_form(connect: Connect, given: str, reason: str) -> None:
    text = await refusal(connect, given)
    assert reason in text
    assert len(text) < 600


async def test_too_many_pixels_are_refused_before_they_are_decoded(connect: Connect, project: Path) -> None:
    (project / "bomb.png").write_bytes(as_file(Image.new("1", (3000, 2000))))
    text = await refusal(connect, "bomb.png", max_image_pixels=5_999_999)
    assert "it has 3000x2000 pixels, more than the 5,999,999" in text


async def test_pillows_own_limit_is_a_refusal_too(connect: Connect, project: Path) -> None:
    (project / "bomb.png").write_bytes(as_file(Image.new("1", (20_000, 10_000))))
    assert "too many pixels" in await refusal(connect, "bomb.png", max_image_pixels=1_000_000_000)


async def test_too_many_bytes_are_refused(connect: Connect, project: Path) -> None:
    data = as_file(picture((64, 64)), "BMP")
    (project / "a.bmp").write_bytes(data)
    code = base64.b64encode(data).decode()
    assert "more than the 1,000" in await refusal(connect, "a.bmp", max_image_bytes=1000)
    assert "image 1: it has" in await refusal(connect, code, max_image_bytes=1000)


async def test_too_many_images_are_refused(connect: Connect) -> None:
    assert "3 were given, more than the 2" in await refusal(connect, "a", "b", "c", max_images=2)


async def test_no_image_is_refused(connect: Connect) -> None:
    assert await refusal(connect) == "`images` is empty."


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fifos in the file system")
async def test_a_fifo_is_no_image(connect: Connect, project: Path) -> None:
    os.mkfifo(project / "pipe.png")
    assert "not a regular file" in await refusal(connect, "pipe.png")
