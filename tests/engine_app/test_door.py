"""What the engine lets in, and how it refuses."""

import json
import socket

import httpx2
import pytest

from gemma_mcp.engine.serving import bind
from gemma_mcp.state import new_nonce, proof
from gemma_mcp.testing.engines import EngineHome
from gemma_mcp.wire import WIRE_VERSION

ROUTES = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/echo"),
    ("GET", "/metrics"),
    ("GET", "/status"),
    ("POST", "/shutdown"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("GET", "/nothing"),
]
CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}


def error_of(response: httpx2.Response) -> dict[str, object]:
    return response.json()["error"]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic abc", "Bearer", "Bearer \u00e9"])
def test_without_the_token_nothing_is_answered(
    stranger: httpx2.Client, method: str, path: str, header: str | None
) -> None:
    headers = [(b"authorization", header.encode("latin-1"))] if header else []
    response = stranger.request(method, path, headers=headers)
    assert response.status_code == 401
    assert error_of(response)["type"] == "authentication_error"
    assert error_of(response)["code"] == 401


def test_health_needs_no_token_and_tells_no_secret(stranger: httpx2.Client, shared_home: EngineHome) -> None:
    response = stranger.get("/health")
    assert response.json() == {"status": "ok", "version": "0.1.0", "wire_version": WIRE_VERSION, "proof": None}
    assert shared_home.state().token not in response.text


def test_health_proves_that_the_token_is_known(stranger: httpx2.Client, shared_home: EngineHome) -> None:
    nonce = new_nonce()
    response = stranger.get("/health", params={"nonce": nonce})
    assert response.json()["proof"] == proof(shared_home.state().token, nonce)
    assert shared_home.state().token not in response.text


@pytest.mark.parametrize("nonce", ["", "short", "x" * 1000])
def test_a_nonce_of_odd_length_is_refused(stranger: httpx2.Client, nonce: str) -> None:
    response = stranger.get("/health", params={"nonce": nonce})
    assert response.status_code == 400
    assert "nonce" in str(error_of(response)["message"])


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:80"])
@pytest.mark.parametrize("path", ["/health", "/v1/models"])
def test_another_host_name_is_refused(http: httpx2.Client, host: str, path: str) -> None:
    response = http.get(path, headers={"host": host})
    assert response.status_code == 421


def test_localhost_is_a_name_of_the_engine(http: httpx2.Client, shared_home: EngineHome) -> None:
    response = http.get("/v1/models", headers={"host": f"LocalHost:{shared_home.state().port}"})
    assert response.status_code == 200


def test_unknown_paths_and_methods_are_refused_in_the_usual_shape(http: httpx2.Client) -> None:
    assert "not found" in str(error_of(http.get("/v1/nothing"))["message"])
    response = http.get("/v1/chat/completions")
    assert response.status_code == 405
    assert error_of(response)["type"] == "invalid_request_error"


def test_an_unknown_model_is_refused_with_the_known_ones(http: httpx2.Client) -> None:
    response = http.post("/v1/chat/completions", json={**CHAT, "model": "gemini"})
    assert response.status_code == 404
    assert error_of(response)["type"] == "not_found_error"
    assert "starter" in str(error_of(response)["message"])
    assert error_of(response)["gemma"] == {
        "kind": "UnknownModelError",
        "message": "There is no model 'gemini' here.",
        "hint": "Known models: starter.",
        "fields": {"model": "gemini", "known": ["starter"]},
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temprature": 1}, ["`temprature`", "`temperature`?"]),
        ({"tools": []}, ["`tools`", "Leave it out"]),
        ({"temperature": "hot"}, ["`temperature`", "number"]),
        ({"temperature": -1}, ["`temperature`", "greater than or equal to 0"]),
        ({"top_p": 1e400}, ["`top_p`"]),
        ({"max_tokens": 0}, ["`max_tokens`"]),
        ({"max_tokens": 10**30}, ["`max_tokens`"]),
        ({"seed": -1}, ["`seed`"]),
        ({"n": 0}, ["`n`", "1"]),
        ({"n": 17}, ["`n`", "16"]),
        ({"n": 2, "return_tokens": True}, ["`return_tokens`", "`n`"]),
        ({"eta_cutoff": 2}, ["`eta_cutoff`", "1"]),
        ({"edt_theta": -1}, ["`edt_theta`", "0"]),
        ({"edt_base": 0}, ["`edt_base`", "0.001"]),
        ({"model": None}, ["`model`"]),
        ({"messages": []}, ["`messages`"]),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, ["`messages[0].role`"]),
        ({"messages": [{"role": "user"}]}, ["`messages[0].content`", "missing"]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "txt": "hi"}]}]}, ["messages[0]", "`text`?"]),
        ({"messages": [{"role": "user", "content": " \n"}]}, ["last message is empty"]),
        ({"messages": [{"role": "user", "content": ""}]}, ["last message is empty"]),
        ({"stop": ["a", ""]}, ["`stop`", "empty"]),
        ({"stop": ["a"] * 65}, ["`stop`", "64"]),
        ({"top_logprobs": 3}, ["`top_logprobs`", "`logprobs`"]),
        ({"logit_bias": {"hello": 1.0}}, ["`logit_bias`", "'hello'"]),
        ({"logit_bias": {"99999999": 1.0}}, ["`logit_bias`", "99999999"]),
        ({"logit_bias": {"9" * 5000: 1.0}}, ["`logit_bias`", "no token"]),
        ({"response_format": {"type": "json_schema"}}, ["`response_format.json_schema`", "missing"]),
        ({"response_format": {"type": "yaml"}}, ["`response_format.type`"]),
        ({"response_format": {"type": "json_object"}, "grammar": "root ::= 'a'"}, ["`grammar`", "`response_format`"]),
        ({"grammar": " "}, ["grammar"]),
    ],
)
def test_a_bad_field_is_named_in_one_sentence(http: httpx2.Client, change: dict[str, object], words: list[str]) -> None:
    body = json.dumps({**CHAT, **change}).replace("Infinity", "1e400")
    response = http.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert [word for word in words if word not in str(error_of(response)["message"])] == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": "echo", "messages": "\\ud800"}', b"[" * 9000]
)
def test_a_body_that_is_no_request_is_refused(http: httpx2.Client, body: bytes) -> None:
    response = http.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


def test_an_abbreviation_keeps_its_letters(http: httpx2.Client) -> None:
    message = str(error_of(http.post("/v1/chat/completions", content=b"{"))["message"])
    assert "is not valid JSON: EOF while parsing" in message


def test_a_body_that_is_too_long_is_refused(http: httpx2.Client) -> None:
    response = http.post("/v1/chat/completions", json={**CHAT, "user": "x" * 100_000})
    assert response.status_code == 413
    assert "more than" in str(error_of(response)["message"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": "echo", "prompt": "é" * 4000, "suffix": "x" * 2001}),
        ("/v1/chat/completions", {"model": "echo", "messages": [{"role": "user", "content": "é" * 5001}]}),
        (
            "/v1/chat/completions",
            {"model": "echo", "messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 10_001}]}]},
        ),
    ],
)
def test_a_prompt_of_more_bytes_than_allowed_is_refused_at_the_door(
    http: httpx2.Client, path: str, body: dict[str, object]
) -> None:
    response = http.post(path, json=body)
    assert response.status_code == 400
    assert "more than the 10,000 that are allowed" in str(error_of(response)["message"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": "echo", "prompt": "x" * 37_000}),
        ("/v1/tokens/count", {"model": "echo", "texts": ["x" * 5] * 9_000}),
    ],
)
def test_a_body_without_images_may_be_no_longer_than_its_texts(
    http: httpx2.Client, path: str, body: dict[str, object]
) -> None:
    response = http.post(path, json=body)
    assert response.status_code == 413
    assert "more than 36384 bytes" in str(error_of(response)["message"])


def test_a_body_that_grows_too_long_is_refused(http: httpx2.Client) -> None:
    parts = (b" " * 10_000 for _ in range(10))
    assert http.post("/v1/chat/completions", content=parts).status_code == 413


def test_the_engine_lives_on_after_a_client_that_leaves_in_its_body(
    http: httpx2.Client, shared_home: EngineHome
) -> None:
    state = shared_home.state()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{state.port}\r\nAuthorization: Bearer {state.token}\r\n"
    with socket.create_connection(("127.0.0.1", state.port)) as connection:
        connection.sendall(head.encode() + b"Content-Length: 100\r\n\r\n{")
    assert http.get("/v1/models").status_code == 200


def test_an_empty_prompt_is_refused(http: httpx2.Client) -> None:
    response = http.post("/v1/completions", json={"model": "echo", "prompt": ""})
    assert response.status_code == 400
    assert "empty" in str(error_of(response)["message"])


def test_a_prompt_that_does_not_fit_is_refused_with_its_length(http: httpx2.Client) -> None:
    response = http.post("/v1/completions", json={"model": "echo", "prompt": "x" * 5000})
    assert response.status_code == 400
    gemma = response.json()["error"]["gemma"]
    assert gemma["kind"] == "ContextOverflowError"
    assert gemma["fields"]["context_length"] == 4096


def test_answers_do_not_wait_for_a_receipt() -> None:
    """asyncio sends small answers at once (TCP_NODELAY) only on sockets that name their protocol."""
    with bind(0) as listener:
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.proto == socket.IPPROTO_TCP
