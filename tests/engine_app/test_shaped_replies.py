"""Replies that must have a shape: a JSON schema, any object, a grammar."""

import httpx2
import pytest
from asking import Body, ask, chat, events, failure, stream, text_of

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
