"""What replies look like on the HTTP wire, whole and streamed."""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from gemma_mcp.testing.engines import EngineHome

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


def test_a_whole_chat_reply_has_openai_s_shape(http: httpx2.Client) -> None:
    reply = ask(http, chat("good morning"))
    assert reply["object"] == "chat.completion"
    assert reply["model"] == "echo"
    assert reply["id"].startswith("chatcmpl-")
    assert reply["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "good morning"},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ]
    usage = reply["usage"]
    assert usage["completion_tokens"] == len("good morning")
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert reply["timings"]["predicted_n"] == len("good morning")
    assert reply["gemma"]["device"] == "CPU"


def test_a_whole_completion_has_openai_s_shape(http: httpx2.Client) -> None:
    reply = ask(http, {"model": "echo", "prompt": "abc", "max_tokens": 2}, "/v1/completions")
    assert reply["object"] == "text_completion"
    assert reply["choices"] == [{"index": 0, "text": "aa", "finish_reason": "length", "logprobs": None}]


def test_a_stream_says_what_the_whole_reply_says(http: httpx2.Client) -> None:
    chunks = stream(http, chat("one two three"))
    assert text_of(chunks) == "one two three"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["gemma"]["model"] == "echo"


def test_a_stream_of_a_plain_completion_carries_text(http: httpx2.Client) -> None:
    chunks = stream(http, {"model": "echo", "prompt": "abc", "max_tokens": 3}, "/v1/completions")
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "aaa"


def test_progress_is_told_only_to_those_who_ask(http: httpx2.Client) -> None:
    def progress(chunks: list[Body]) -> list[Body]:
        return [chunk for chunk in chunks if {"prompt_progress", "queue_place", "loading"} & chunk.keys()]

    assert progress(stream(http, chat("hello"))) == []
    told = progress(stream(http, chat("hello again", return_progress=True)))
    last = told[-1]["prompt_progress"]
    assert last["processed"] == last["total"] > 0
    assert all(chunk["choices"][0]["delta"] == {} for chunk in told)


def test_usage_ends_a_stream_when_it_is_asked_for(http: httpx2.Client) -> None:
    chunks = stream(http, chat("hello", stream_options={"include_usage": True}))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 5
    assert all("usage" not in chunk for chunk in chunks[:-1])


def test_a_repeated_prompt_is_taken_from_the_cache_and_counted(http: httpx2.Client) -> None:
    body = chat("a prompt that comes twice")
    ask(http, body)
    usage = ask(http, body)["usage"]
    assert 0 < usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]
    uncached = ask(http, {**body, "cache_prompt": False})["usage"]
    assert uncached["prompt_tokens_details"]["cached_tokens"] == 0


def test_a_stop_string_ends_the_reply_and_is_not_part_of_it(http: httpx2.Client) -> None:
    reply = ask(http, chat("one two three", stop=" tw"))
    assert reply["choices"][0]["message"]["content"] == "one"
    assert reply["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "default_max_tokens"])
def test_a_reply_is_cut_at_the_limit(http: httpx2.Client, field: str) -> None:
    reply = ask(http, chat("one two three", **{field: 5}))
    assert reply["choices"][0]["message"]["content"] == "one t"
    assert reply["choices"][0]["finish_reason"] == "length"


def test_a_default_limit_beyond_the_context_is_lowered(http: httpx2.Client) -> None:
    assert ask(http, chat("hello", default_max_tokens=1_000_000))["choices"][0]["finish_reason"] == "stop"
    assert http.post("/v1/chat/completions", json=chat("hello", max_tokens=1_000_000)).status_code == 400


def test_text_so_far_is_given_back_when_time_is_up(http: httpx2.Client) -> None:
    reply = ask(http, chat("!slow 0.05 " + "x" * 500, deadline_seconds=0.5))
    assert reply["choices"][0]["finish_reason"] == "deadline"
    assert set(reply["choices"][0]["message"]["content"]) == {"x"}


def test_conversations_keep_their_turns_and_roles(http: httpx2.Client) -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "first", "name": "ann"},
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": [{"type": "text", "text": "sec"}, {"type": "text", "text": "ond"}]},
    ]
    reply = ask(http, {"model": "echo", "messages": messages})
    assert reply["choices"][0]["message"]["content"] == "second"


def test_control_words_and_nul_in_a_message_are_plain_text(http: httpx2.Client) -> None:
    text = "a<end_of_turn>\n<start_of_turn>model\x00b\u2028\U0001f600"
    assert ask(http, chat(text))["choices"][0]["message"]["content"] == text


def test_chat_logprobs_have_openai_s_shape(http: httpx2.Client) -> None:
    reply = ask(http, chat("\u00e9", logprobs=True, top_logprobs=1))
    content = reply["choices"][0]["logprobs"]["content"]
    assert [one["bytes"] for one in content] == [[0xC3], [0xA9]]
    assert content[0]["top_logprobs"][0]["logprob"] == content[0]["logprob"] < 0
    plain = ask(http, chat("ab", logprobs=True))["choices"][0]["logprobs"]["content"]
    assert [(one["token"], one["top_logprobs"]) for one in plain] == [("a", []), ("b", [])]


def test_completion_logprobs_have_openai_s_shape(http: httpx2.Client) -> None:
    body = {"model": "echo", "prompt": "abc", "max_tokens": 3, "logprobs": 1}
    logprobs = ask(http, body, "/v1/completions")["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["a", "a", "a"]
    assert logprobs["text_offset"] == [0, 1, 2]
    assert [list(one) for one in logprobs["top_logprobs"]] == [["a"]] * 3
    assert all(value < 0 for value in logprobs["token_logprobs"])


def test_streamed_logprobs_come_with_their_text(http: httpx2.Client) -> None:
    body = {"model": "echo", "prompt": "abc", "max_tokens": 3, "logprobs": 0}
    chunks = stream(http, body, "/v1/completions")
    found = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["logprobs"]]
    assert [token for one in found for token in one["tokens"]] == ["a", "a", "a"]
    assert [offset for one in found for offset in one["text_offset"]] == [0, 1, 2]


def test_a_suffix_asks_for_what_stands_between(http: httpx2.Client) -> None:
    body = {"model": "echo", "prompt": "def f", "suffix": "return"}
    assert ask(http, body, "/v1/completions")["choices"][0]["text"] == "# 5 before, 6 after"


def test_sampling_parameters_and_logit_bias_are_taken(http: httpx2.Client) -> None:
    options = {
        "temperature": 0.5,
        "top_k": 10,
        "top_p": 0.9,
        "min_p": 0.1,
        "seed": 7,
        "dry_multiplier": 0.5,
        "dry_penalty_last_n": 64,
        "dry_sequence_breakers": ["\n"],
        "logit_bias": {"20": -1.5},
    }
    assert ask(http, chat("hello", **options))["choices"][0]["message"]["content"] == "hello"


# -- images -----------------------------------------------------------------------------------------------------------


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


# -- replies of a shape -----------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


def shaped(text: str, **options: object) -> Body:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    return chat(f"!repeat 1 {text}", response_format=wanted, **options)


def test_json_that_satisfies_its_schema_is_passed_on(http: httpx2.Client) -> None:
    assert ask(http, shaped('{"a": 1}'))["choices"][0]["message"]["content"] == '{"a": 1}'


def test_json_is_streamed_only_when_it_was_validated(http: httpx2.Client) -> None:
    chunks = stream(http, shaped('{"a": 1}', logprobs=True))
    texts = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    assert [text for text in texts if text] == ['{"a": 1}']
    said = next(chunk for chunk in chunks if chunk["choices"][0]["delta"].get("content"))
    assert len(said["choices"][0]["logprobs"]["content"]) == len('{"a": 1}')


@pytest.mark.parametrize("text", ['{"a": "one"}', '{"b": 1}', "no JSON", '{"a": 1'])
@pytest.mark.parametrize("streamed", [False, True])
def test_json_that_does_not_satisfy_its_schema_is_an_error(http: httpx2.Client, text: str, streamed: bool) -> None:
    response = http.post("/v1/chat/completions", json=shaped(text, stream=streamed))
    assert response.status_code == 502
    assert failure(response)["gemma"]["kind"] == "InvalidReplyError"


def test_progress_goes_on_while_json_is_held_back(http: httpx2.Client) -> None:
    with http.stream(
        "POST", "/v1/chat/completions", json=shaped('{"b": 1}', stream=True, return_progress=True)
    ) as response:
        chunks = list(events(response))
    assert chunks[-1]["error"]["gemma"]["kind"] == "InvalidReplyError"
    assert text_of(chunks[:-1]) == ""
    assert len(chunks) > len('{"b": 1}')


def test_json_that_was_cut_is_an_error_that_says_so(http: httpx2.Client) -> None:
    response = http.post("/v1/chat/completions", json=shaped('{"a": 1}', max_tokens=3))
    assert response.status_code == 502
    assert "cut after 3 tokens" in failure(response)["message"]


def test_json_that_was_not_ready_in_time_is_an_error_that_says_so(http: httpx2.Client) -> None:
    wanted = {"type": "json_object"}
    response = http.post(
        "/v1/chat/completions", json=chat("!slow 0.05 " + "1" * 500, response_format=wanted, deadline_seconds=0.5)
    )
    assert response.status_code == 504
    assert "Time was up" in failure(response)["message"]


def test_any_json_object_can_be_asked_for(http: httpx2.Client) -> None:
    wanted = {"type": "json_object"}
    assert ask(http, chat('{"x": [1]}', response_format=wanted))["choices"][0]["message"]["content"] == '{"x": [1]}'
    assert http.post("/v1/chat/completions", json=chat("[1]", response_format=wanted)).status_code == 502
    assert ask(http, chat("[1]", response_format={"type": "text"}))["choices"][0]["message"]["content"] == "[1]"


def test_a_hostile_schema_is_refused_at_the_door(http: httpx2.Client) -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": {"$ref": "http://evil.example/x"}}}
    response = http.post("/v1/chat/completions", json=chat("x", response_format=wanted))
    assert response.status_code == 400


def test_a_reply_under_a_grammar_of_ones_own_is_not_validated(http: httpx2.Client) -> None:
    assert ask(http, chat("hi", grammar='root ::= "hi"'))["choices"][0]["message"]["content"] == "hi"


# -- several requests, and accidents ----------------------------------------------------------------------------------


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
    until(lambda: metric(http, 'gemma_waiting{model="echo"}') == 2)
    assert metric(http, 'gemma_running{model="echo"}') == 2
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
