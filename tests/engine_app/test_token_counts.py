"""How many tokens texts have, asked of the engine."""

from collections.abc import Callable

import anyio
import httpx2
from asking import ask, failure

from gemma_mcp.testing.engines import EngineHome

PATH = "/v1/tokens/count"


def test_texts_are_counted_in_the_tokens_that_a_prompt_of_them_has(http: httpx2.Client) -> None:
    texts = ["Hello", "", "Hello, über-long wörld\n" * 50]
    counted = ask(http, {"model": "starter", "texts": texts}, PATH)
    assert counted["model"] == "starter"
    assert counted["counts"][1] == 0
    for text, count in zip(texts, counted["counts"], strict=True):
        if text:
            body = {"model": "starter", "prompt": text, "max_tokens": 1}
            usage = ask(http, body, "/v1/completions")["usage"]
            assert usage["prompt_tokens"] - 1 == count  # the beginning-of-sequence token


def test_the_count_tells_how_much_a_request_may_use(http: httpx2.Client) -> None:
    assert ask(http, {"model": "echo", "texts": []}, PATH) == {"model": "echo", "context_length": 4096, "counts": []}


def test_a_misspelt_field_of_a_count_is_refused(http: httpx2.Client) -> None:
    response = http.post(PATH, json={"model": "echo", "text": ["x"]})
    assert response.status_code == 400
    assert "`text`" in failure(response)["message"]


def test_the_pool_counts_for_a_server(new_home: Callable[..., EngineHome]) -> None:
    home = new_home()

    async def count() -> tuple[int, ...]:
        async with home.pool() as pool:
            return (await pool.count_tokens("echo", ["abc", "abcdef"])).counts

    short, long = anyio.run(count)
    assert 0 < short < long
