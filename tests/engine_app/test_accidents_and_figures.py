"""Several requests at once, clients that leave, failures; and the figures that tell of them."""

import threading
from pathlib import Path

import httpx2
import pytest
from asking import ask, chat, failure, metric, stream, text_of, until

from gemma_mcp.testing.engines import EngineHome


def test_a_full_queue_refuses_at_the_door_with_a_hint(http: httpx2.Client, tmp_path: Path) -> None:
    ask(http, chat("load the model first"))
    gate = tmp_path / "gate"
    replies: list[str] = []

    def hold(number: int) -> None:
        reply = ask(http, chat(f"!hold {gate} {number}"))
        replies.append(reply["choices"][0]["message"]["content"])

    threads = [threading.Thread(target=hold, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: metric(http, "gemma_running{") + metric(http, "gemma_waiting{") == 4)
    response = http.post("/v1/chat/completions", json=chat("one too many"))
    gate.touch()
    for thread in threads:
        thread.join()
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert failure(response)["type"] == "rate_limit_error"
    assert "Try again" in failure(response)["message"]
    assert sorted(replies) == ["0", "1", "2", "3"]


def test_a_client_that_leaves_frees_its_slot(http: httpx2.Client, tmp_path: Path) -> None:
    body = chat(f"!hold {tmp_path / 'never'} x", stream=True, return_progress=True)
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        assert next(lines)
        until(lambda: metric(http, "gemma_running{") == 1)
    until(lambda: metric(http, "gemma_running{") == 0)


def test_a_client_that_leaves_without_streaming_frees_its_slot(http: httpx2.Client, tmp_path: Path) -> None:
    body = chat(f"!hold {tmp_path / 'never'} x")
    with pytest.raises(httpx2.ReadTimeout):
        http.post("/v1/chat/completions", json=body, timeout=1)
    until(lambda: metric(http, "gemma_running{") == 0)


def test_an_error_in_the_middle_of_a_stream_is_its_last_chunk(http: httpx2.Client) -> None:
    chunks = stream(http, chat("!die-at 3 abcdef"))
    assert text_of(chunks) == "abc"
    assert chunks[-1]["error"]["gemma"]["kind"] in ("WorkerDiedError", "StepFailedError")
    assert ask(http, chat("still there"))["choices"][0]["message"]["content"] == "still there"


def test_a_failing_step_is_an_error_of_that_request(http: httpx2.Client) -> None:
    response = http.post("/v1/chat/completions", json=chat("!fail x"))
    assert response.status_code == 500
    assert failure(response)["type"] == "server_error"
    assert ask(http, chat("still there"))["choices"][0]["message"]["content"] == "still there"


def test_metrics_count_requests_tokens_and_steps(http: httpx2.Client) -> None:
    before = {name: metric(http, name) for name in ("gemma_tokens_total", "gemma_ttft_seconds_count")}
    ask(http, chat("count me"))
    assert metric(http, "gemma_tokens_total") >= before["gemma_tokens_total"] + len("count me")
    assert metric(http, "gemma_ttft_seconds_count") == before["gemma_ttft_seconds_count"] + 1
    assert metric(http, 'gemma_http_requests_total{route="/v1/chat/completions",status="200"}') > 0
    assert metric(http, "gemma_models_loaded") == 1
    assert metric(http, 'gemma_step_seconds_count{model="echo"}') > 0


def test_status_shows_the_loaded_models(http: httpx2.Client, shared_home: EngineHome) -> None:
    ask(http, chat("hello"))
    status = http.get("/status").json()
    assert status["pid"] == shared_home.state().pid
    assert [(one["model"], one["device"], one["running"]) for one in status["models"]] == [("echo", "CPU", 0)]


def test_models_are_listed_in_openai_s_shape(http: httpx2.Client) -> None:
    listed = http.get("/v1/models").json()
    assert listed["object"] == "list"
    assert {"id": "starter", "object": "model", "owned_by": "gemma-mcp"}.items() <= listed["data"][0].items()
    assert http.get("/v1/models/echo").json()["id"] == "echo"
    assert http.get("/v1/models/none").status_code == 404


def test_no_prompt_and_no_token_is_in_the_log(http: httpx2.Client, shared_home: EngineHome) -> None:
    secret = "the prompt is private"
    ask(http, chat(secret))
    http.post("/v1/chat/completions", json=chat(f"!fail {secret}"))
    for log in shared_home.places.logs.iterdir():
        text = log.read_text(encoding="utf-8")
        assert secret not in text
        assert shared_home.state().token not in text
