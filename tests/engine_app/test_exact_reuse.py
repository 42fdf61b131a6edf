"""A reply that comes back with its token ids is found in the prefix cache to its last computed token."""

import httpx2
import pytest
from asking import Body, ask, chat, failure, stream

WORDS = 'root ::= "the cat and the dog saw the house and the garden"'


def turn_of(reply: Body) -> Body:
    """The reply as a message that carries its tokens."""
    tokens = {"ids": reply["tokens"], "vocabulary": reply["gemma"]["vocabulary"]}
    return {"role": "assistant", "content": reply["choices"][0]["message"]["content"], "tokens": tokens}


def cached(reply: Body) -> int:
    return reply["usage"]["prompt_tokens_details"]["cached_tokens"]


def say(http: httpx2.Client, messages: list[Body], **options: object) -> Body:
    return ask(http, {"model": "starter", "messages": messages, "return_tokens": True, **options})


def retokenised(http: httpx2.Client, text: str) -> int:
    return ask(http, {"model": "starter", "texts": [text]}, "/v1/tokens/count")["counts"][0]


def opening(http: httpx2.Client, seed: int) -> tuple[list[Body], Body]:
    """A first turn whose reply is cut into other tokens when it is tokenised again."""
    question = {"role": "user", "content": f"Say the sentence of number {seed}."}
    reply = say(http, [question], grammar=WORDS, temperature=50, top_k=0, top_p=1.0, seed=seed, max_tokens=64)
    assert len(reply["tokens"]) == reply["usage"]["completion_tokens"]
    assert retokenised(http, reply["choices"][0]["message"]["content"]) != len(reply["tokens"])
    return [question], reply


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_next_turn_computes_nothing_that_was_computed(http: httpx2.Client, seed: int) -> None:
    messages, first = opening(http, seed)
    assert first["choices"][0]["finish_reason"] == "stop"
    follow_up = {"role": "user", "content": "And now?"}
    second = say(http, [*messages, turn_of(first), follow_up], max_tokens=8, temperature=0)
    assert cached(second) == first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    third = say(http, [*messages, turn_of(first), follow_up, turn_of(second), follow_up], max_tokens=4)
    computed = second["usage"]["completion_tokens"] - (second["choices"][0]["finish_reason"] == "length")
    assert cached(third) == second["usage"]["prompt_tokens"] + computed


def test_text_alone_is_found_only_up_to_where_it_is_cut_otherwise(http: httpx2.Client) -> None:
    messages, first = opening(http, 4)
    message = turn_of(first)
    del message["tokens"]
    second = say(http, [*messages, message, {"role": "user", "content": "And now?"}], max_tokens=4)
    assert cached(second) < first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]


@pytest.mark.parametrize("wrong", ["vocabulary", "ids", "text"])
def test_tokens_that_do_not_fit_are_passed_over(http: httpx2.Client, wrong: str) -> None:
    messages, first = opening(http, 5)
    message, plain = turn_of(first), turn_of(first)
    del plain["tokens"]
    if wrong == "vocabulary":
        message["tokens"]["vocabulary"] = "another"
    elif wrong == "ids":
        message["tokens"]["ids"] = [*message["tokens"]["ids"], 5]
    else:
        message["content"] = plain["content"] = "something else"
    follow_up = {"role": "user", "content": "And now?"}
    counts = {
        say(http, [*messages, one, follow_up], max_tokens=4)["usage"]["prompt_tokens"] for one in (message, plain)
    }
    assert len(counts) == 1


def test_a_stream_tells_the_tokens_with_its_end(http: httpx2.Client) -> None:
    chunks = stream(http, chat("hello", return_tokens=True))
    (ending,) = [chunk for chunk in chunks if chunk["choices"][0]["finish_reason"]]
    assert [chunk for chunk in chunks if "tokens" in chunk] == [ending]
    assert len(ending["tokens"]) == len("hello")
    assert ending["gemma"]["vocabulary"]


def test_tokens_are_told_only_to_those_who_ask(http: httpx2.Client) -> None:
    assert not any("tokens" in chunk for chunk in stream(http, chat("hello")))
    assert "tokens" not in ask(http, chat("hello"))


def test_a_reply_that_was_cut_gives_the_tokens_of_what_was_said(http: httpx2.Client) -> None:
    assert len(ask(http, chat("hello", return_tokens=True, max_tokens=3))["tokens"]) == 3


def test_a_user_s_message_cannot_bring_tokens(http: httpx2.Client) -> None:
    ids = ask(http, chat("bye", return_tokens=True))["tokens"]
    message = {"role": "user", "content": "hello", "tokens": {"ids": ids, "vocabulary": "x"}}
    assert ask(http, {"model": "echo", "messages": [message]})["choices"][0]["message"]["content"] == "hello"


@pytest.mark.parametrize("ids", [[-1], ["1"], [2**31], [1.5]])
def test_what_is_no_token_id_is_refused(http: httpx2.Client, ids: list[object]) -> None:
    message = {"role": "assistant", "content": "x", "tokens": {"ids": ids, "vocabulary": "x"}}
    body = {"model": "echo", "messages": [message, {"role": "user", "content": "y"}]}
    response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert "messages[0].tokens.ids[0]" in failure(response)["message"]
