"""The `openai` package works against the engine unchanged."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from gemma_mcp.testing.engines import EngineHome

STARTER = Path(__file__).parents[2] / "gemma_mcp" / "starter" / "starter.gguf"


@pytest.fixture
def client(shared_home: EngineHome) -> Iterator[OpenAI]:
    state = shared_home.state()
    with OpenAI(base_url=f"{state.url}/v1", api_key=state.token, max_retries=0) as client:
        yield client


def test_a_chat_reply_comes_whole(client: OpenAI) -> None:
    reply = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hello"}])
    assert reply.choices[0].message.content == "hello"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 5


def test_a_chat_reply_is_streamed(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="echo",
        messages=[{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello you"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "hello you"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens > 9


def test_several_choices_come_whole_and_streamed(client: OpenAI) -> None:
    reply = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hello"}], n=3)
    assert [(choice.index, choice.message.content) for choice in reply.choices] == [(n, "hello") for n in range(3)]
    stream = client.chat.completions.create(
        model="echo", messages=[{"role": "user", "content": "hello"}], n=2, stream=True
    )
    texts = {0: "", 1: ""}
    for choice in (choice for chunk in stream for choice in chunk.choices):
        texts[choice.index] += choice.delta.content or ""
    assert texts == {0: "hello", 1: "hello"}
    plain = client.completions.create(model="echo", prompt="abc", max_tokens=2, n=2)
    assert [choice.text for choice in plain.choices] == ["aa", "aa"]


def test_logprobs_are_understood(client: OpenAI) -> None:
    reply = client.chat.completions.create(
        model="echo", messages=[{"role": "user", "content": "ab"}], logprobs=True, top_logprobs=1
    )
    assert reply.choices[0].logprobs is not None
    content = reply.choices[0].logprobs.content or []
    assert [(one.token, one.top_logprobs[0].token) for one in content] == [("a", "a"), ("b", "b")]


def test_plain_completions_work_with_suffix_and_stream(client: OpenAI) -> None:
    whole = client.completions.create(model="echo", prompt="ab", suffix="c")
    assert whole.choices[0].text == "# 2 before, 1 after"
    stream = client.completions.create(model="echo", prompt="ab", suffix="c", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "# 2 before, 1 after"


def test_replies_are_parsed_into_a_model(client: OpenAI) -> None:
    class City(BaseModel):
        name: str
        people: int

    reply = client.chat.completions.parse(
        model="echo",
        messages=[{"role": "user", "content": '{"name": "Ulm", "people": 128000}'}],
        response_format=City,
    )
    assert reply.choices[0].message.parsed == City(name="Ulm", people=128000)


def test_models_are_listed(client: OpenAI) -> None:
    assert "starter" in [model.id for model in client.models.list()]
    assert client.models.retrieve("echo").id == "echo"


def test_errors_become_its_own(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="Known models"):
        client.chat.completions.create(model="none", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError, match="last message is empty"):
        client.chat.completions.create(model="echo", messages=[{"role": "user", "content": ""}])
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    stream = client.chat.completions.create(
        model="echo", messages=[{"role": "user", "content": "!die-at 2 abc"}], stream=True
    )
    with pytest.raises(openai.APIError):
        list(stream)


@pytest.mark.skipif(not STARTER.exists(), reason="the starter model is not built yet")
def test_the_starter_model_answers(client: OpenAI) -> None:
    reply = client.chat.completions.create(
        model="starter", messages=[{"role": "user", "content": "What is the capital of France?"}], max_tokens=40
    )
    assert "Paris" in (reply.choices[0].message.content or "")
