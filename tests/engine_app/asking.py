"""How the tests of the HTTP wire ask."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2

Body = dict[str, Any]


def chat(text: object, **options: object) -> Body:
    return {"model": "echo", "messages": [{"role": "user", "content": text}], **options}


def ask(http: httpx2.Client, body: Body, path: str = "/v1/chat/completions") -> Body:
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def stream(http: httpx2.Client, body: Body, path: str = "/v1/chat/completions") -> list[Body]:
    with http.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(events(response))


def events(response: httpx2.Response) -> Iterator[Body]:
    lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return map(json.loads, lines[:-1])


def failure(response: httpx2.Response) -> Body:
    return response.json()["error"]


def text_of(chunks: list[Body]) -> str:
    deltas = (choice.get("delta", {}).get("content") for chunk in chunks for choice in chunk.get("choices", ()))
    return "".join(delta or "" for delta in deltas)


def metric(http: httpx2.Client, name: str) -> float:
    lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(600):
        if condition():
            return
        waiting.wait(0.05)
    raise AssertionError("it did not come about in 30 seconds")
