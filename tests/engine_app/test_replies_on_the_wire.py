"""What replies look like on the HTTP wire, whole and streamed."""

import httpx2
import pytest
from asking import Body, ask, chat, stream, text_of


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


def test_a_request_may_say_that_nobody_waits_for_it(http: httpx2.Client) -> None:
    assert ask(http, chat("one", priority="bulk"))["choices"][0]["message"]["content"] == "one"
    refused = http.post("/v1/chat/completions", json=chat("one", priority="urgent"))
    assert refused.status_code == 400
    assert "`priority` is not valid: input should be 'interactive' or 'bulk'" in refused.json()["error"]["message"]


def test_a_stop_string_ends_the_reply_and_is_not_part_of_it(http: httpx2.Client) -> None:
    reply = ask(http, chat("one two three", stop=" tw"))
    assert reply["choices"][0]["message"]["content"] == "one"
    assert reply["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_reply_is_cut_at_the_limit(http: httpx2.Client, field: str) -> None:
    reply = ask(http, chat("one two three", **{field: 5}))
    assert reply["choices"][0]["message"]["content"] == "one t"
    assert reply["choices"][0]["finish_reason"] == "length"


def test_a_limit_beyond_the_context_is_refused(http: httpx2.Client) -> None:
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
        "eta_cutoff": 0.001,
        "edt_theta": 0.5,
        "edt_base": 0.7,
        "logit_bias": {"20": -1.5},
    }
    assert ask(http, chat("hello", **options))["choices"][0]["message"]["content"] == "hello"


def test_chunks_with_progress_tell_how_many_tokens_there_are_by_now(http: httpx2.Client) -> None:
    wanted = {"return_progress": True, "stream_options": {"include_usage": True}}
    chunks = stream(http, chat("zwölf Bäume", **wanted))
    told = [one["generated"] for one in chunks if one.get("generated")]
    usage = next(one["usage"] for one in chunks if one.get("usage"))
    assert told == sorted(told)
    assert told[-1] == usage["completion_tokens"]
    assert len([one for one in chunks if one.get("choices") and one["choices"][0]["delta"].get("content")]) < told[-1]
    assert not any(one.get("generated") for one in stream(http, chat("zwölf Bäume")))
