"""Images in requests."""

import base64
import io

import httpx2
import pytest
from asking import Body, ask, chat, failure
from PIL import Image


def png(width: int = 3, height: int = 2) -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def image(url: str) -> Body:
    return {"type": "image_url", "image_url": {"url": url}}


def test_images_are_seen_in_their_order(http: httpx2.Client) -> None:
    content = [{"type": "text", "text": "a"}, image(png(3, 2)), image(png(5, 4)), {"type": "text", "text": "b"}]
    said = ask(http, chat(content))["choices"][0]["message"]["content"]
    assert [said.index(word) for word in ("a", "[image 3x2]", "[image 5x4]", "b")] == sorted(
        said.index(word) for word in ("a", "[image 3x2]", "[image 5x4]", "b")
    )


@pytest.mark.parametrize(
    ("urls", "words"),
    [
        (["http://127.0.0.1/a.png"], "image 1: this is not a data: URI"),
        (["file:///etc/passwd"], "image 1: this is not a data: URI"),
        (["data:text/plain;base64,aGk="], "image 1: this is not a data: URI"),
        ([png(), "data:image/png;base64,a*b="], "image 2: its base64 is damaged"),
        (["data:image/png;base64," + "A" * 4000], "image 1: it has more than 2000 bytes"),
        ([png()] * 4, "image 4: a request may hold 3"),
        (["data:image/png;base64,aGVsbG8="], "cannot be decoded"),
    ],
)
def test_an_image_that_cannot_be_taken_is_named(http: httpx2.Client, urls: list[str], words: str) -> None:
    response = http.post("/v1/chat/completions", json=chat([*map(image, urls), {"type": "text", "text": "x"}]))
    assert response.status_code == 400
    assert words in failure(response)["message"]
    assert failure(response)["gemma"]["kind"] == "InputRefusedError"
