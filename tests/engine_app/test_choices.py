"""Several replies to one prompt: OpenAI's `n`, whole and streamed, from one computation of the prompt."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from asking import Body, ask, chat, failure, metric, stream, until

from gemma_mcp.testing.engines import EngineHome
from gemma_mcp.types import choice_seed

QUESTION = "Write a short poem about the sea and the ships that cross it."
COMPLETIONS = "/v1/completions"


def texts(reply: Body) -> list[str]:
    return [choice["message"]["content"] for choice in reply["choices"]]


def by_index(chunks: list[Body]) -> list[str]:
    found: defaultdict[int, str] = defaultdict(str)
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        found[choice["index"]] += choice["delta"].get("content") or ""
    return [found[index] for index in sorted(found)]


def sampled(**options: object) -> Body:
    body = {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "max_tokens": 24, "seed": 5, **options}
    return {**chat(QUESTION), "model": "starter", **body}


def test_choices_have_their_index_and_the_prompt_is_counted_once(http: httpx2.Client) -> None:
    one = ask(http, chat("good morning to all of you"))["usage"]
    reply = ask(http, chat("good morning to all of you", n=3))
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert texts(reply) == ["good morning to all of you"] * 3
    assert {choice["finish_reason"] for choice in reply["choices"]} == {"stop"}
    usage = reply["usage"]
    assert usage["prompt_tokens"] == one["prompt_tokens"]
    assert usage["completion_tokens"] == reply["timings"]["predicted_n"] == 3 * one["completion_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_stream_carries_every_choice_under_its_index(http: httpx2.Client) -> None:
    chunks = stream(http, chat("hello again", n=3, stream_options={"include_usage": True}))
    assert by_index(chunks[:-1]) == ["hello again"] * 3
    openings = [chunk["choices"][0] for chunk in chunks[:3]]
    assert [(one["index"], one["delta"]["role"]) for one in openings] == [(index, "assistant") for index in range(3)]
    reasons = [
        (one["index"], one["finish_reason"]) for chunk in chunks for one in chunk["choices"] if one["finish_reason"]
    ]
    assert sorted(reasons) == [(index, "stop") for index in range(3)]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 3 * len("hello again")
    assert all("usage" not in chunk for chunk in chunks[:-1])


def test_progress_is_told_once_and_counts_the_tokens_of_all(http: httpx2.Client) -> None:
    chunks = stream(http, chat("a text that is counted", n=2, return_progress=True))
    done = [chunk["prompt_progress"]["processed"] for chunk in chunks if chunk.get("prompt_progress")]
    assert done == sorted(done)
    told = [chunk["generated"] for chunk in chunks if chunk.get("generated")]
    assert told == sorted(told)
    assert told[-1] == 2 * len("a text that is counted")


def test_plain_completions_have_choices_whose_offsets_begin_anew(http: httpx2.Client) -> None:
    body = {"model": "echo", "prompt": "abc", "max_tokens": 3, "logprobs": 0, "n": 2}
    reply = ask(http, body, COMPLETIONS)
    assert [choice["text"] for choice in reply["choices"]] == ["aaa", "aaa"]
    assert [choice["logprobs"]["text_offset"] for choice in reply["choices"]] == [[0, 1, 2]] * 2
    chunks = [chunk for chunk in stream(http, body, COMPLETIONS) if chunk["choices"][0]["logprobs"]]
    offsets: defaultdict[int, list[int]] = defaultdict(list)
    for choice in (chunk["choices"][0] for chunk in chunks):
        offsets[choice["index"]] += choice["logprobs"]["text_offset"]
    assert dict(offsets) == {0: [0, 1, 2], 1: [0, 1, 2]}


def test_the_prompt_is_computed_once_for_more_choices_than_slots(http: httpx2.Client) -> None:
    def computed() -> float:
        return metric(http, 'gemma_tokens_total{kind="prompt",model="echo"}')

    before = computed()
    usage = ask(http, chat("something long that nobody has said before: " + "lorem ipsum " * 60, n=4, max_tokens=4))[
        "usage"
    ]
    assert usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"] / 4
    fresh = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
    assert computed() - before < fresh + 16  # the last token of each choice, from which it goes its own way


def test_who_leaves_ends_all_choices(http: httpx2.Client, tmp_path: Path) -> None:
    never = tmp_path / "never"
    body = chat(f"!hold {never} x", n=4, stream=True, return_progress=True)
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        until(lambda: metric(http, "gemma_running") + metric(http, "gemma_waiting") == 4)
        response.close()
    until(lambda: metric(http, "gemma_running") + metric(http, "gemma_waiting") == 0)
    assert texts(ask(http, chat("still there"))) == ["still there"]


def test_more_choices_than_the_queue_holds_are_refused_as_a_whole(http: httpx2.Client) -> None:
    response = http.post("/v1/chat/completions", json=chat("too many", n=5))
    assert response.status_code == 429
    until(lambda: metric(http, "gemma_running") + metric(http, "gemma_waiting") == 0)


def test_choices_that_wait_when_time_is_up_do_not_cost_those_that_have_text(http: httpx2.Client) -> None:
    """Two slots: the other two choices never get one."""
    reply = ask(http, chat("!slow 0.05 " + "y" * 500, n=4, deadline_seconds=1.0))
    assert {choice["finish_reason"] for choice in reply["choices"]} == {"deadline"}
    found = texts(reply)
    assert found[0]
    assert found[2:] == ["", ""]
    assert set("".join(found)) == {"y"}
    assert reply["usage"]["completion_tokens"] == len("".join(found))


def test_when_time_is_up_for_all_choices_the_request_fails(http: httpx2.Client, tmp_path: Path) -> None:
    body = chat(f"!hold {tmp_path / 'never'} x", n=2, deadline_seconds=0.3)
    response = http.post("/v1/chat/completions", json=body)
    assert response.status_code >= 400
    assert "Time was up" in failure(response)["message"]


def test_all_choices_outlive_the_worker(new_home: Callable[..., EngineHome], tmp_path: Path) -> None:
    home = new_home()
    state = home.start()
    headers = {"authorization": f"Bearer {state.token}"}
    with httpx2.Client(base_url=state.url, headers=headers, trust_env=False, timeout=30) as http:
        reply = ask(http, chat(f"!once {tmp_path / 'died'} !die-at 3 goes on", n=3))
        assert metric(http, "gemma_worker_restarts_total") == 1
    assert texts(reply) == ["goes on"] * 3


@pytest.mark.parametrize("streamed", [False, True])
def test_each_choice_is_validated(http: httpx2.Client, streamed: bool) -> None:
    shape = {"type": "json_schema", "json_schema": {"schema": {"type": "object", "required": ["n"]}}}
    if streamed:
        assert by_index(stream(http, chat('{"n": 1}', n=2, response_format=shape))) == ['{"n": 1}'] * 2
        return
    assert texts(ask(http, chat('{"n": 1}', n=2, response_format=shape))) == ['{"n": 1}'] * 2
    response = http.post("/v1/chat/completions", json=chat("{}", n=2, response_format=shape))
    assert response.status_code >= 400


def test_the_first_choice_is_the_reply_to_the_request_without_n(http: httpx2.Client) -> None:
    (alone,) = texts(ask(http, sampled()))
    found = texts(ask(http, sampled(n=3)))
    assert found[0] == alone
    assert len(set(found)) == 3
    assert texts(ask(http, sampled(n=3))) == found
    (second,) = texts(ask(http, sampled(seed=choice_seed(5, 1))))
    assert found[1] == second


def test_without_a_seed_choices_differ(http: httpx2.Client) -> None:
    assert len(set(texts(ask(http, sampled(n=3, seed=None))))) > 1


def test_seeds_of_choices_do_not_meet_those_of_the_next_seed() -> None:
    seeds = [choice_seed(seed, index) for seed in range(200) for index in range(16)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert choice_seed(7, 0) == 7
