"""Whatever a client sends, the server answers the next request, tells nothing of its inside, and reads no canary.

Some seconds for each kind of input; FUZZ_MINUTES in the environment, which `python -m benchmarks.fuzz` sets, gives
them longer. Every run that is longer than the usual one goes other ways.
"""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from fuzz_server import FuzzServer
from hostile import FORMS, arguments, as_text, frames, git_specs, images, paths, schemas
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

Example = TypeVar("Example")

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")

MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
KINDS = 8
"""Tests, each of which has its share of the time."""
SECONDS = MINUTES * 60 / KINDS or 3.5
"""For each test."""

BATCH = 20
"""Examples between two looks at the clock."""


def fuzz(
    strategy: st.SearchStrategy[Example], check: Callable[[Example], object], count: Counter[str], name: str
) -> None:
    """Check examples until time is up, at least one batch."""
    until = time.monotonic() + SECONDS
    start = random.SystemRandom().randrange(2**32) if MINUTES else 0
    while True:
        _batch(strategy, check, count, name, start)
        start += 1
        if time.monotonic() > until:
            return


def _batch(
    strategy: st.SearchStrategy[Example], check: Callable[[Example], object], count: Counter[str], name: str, start: int
) -> None:
    @seed(start)
    @settings(
        max_examples=BATCH,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much),
    )
    @given(strategy)
    def run(example: Example) -> None:
        count[name] += 1
        check(example)

    run()


def tools(server: FuzzServer) -> dict[str, dict[str, Any]]:
    """The published schema of each tool's arguments."""
    listed = server.request("tools/list", {})["result"]["tools"]
    return {tool["name"]: tool["inputSchema"] for tool in listed}


@pytest.mark.parametrize("server", [True, False], ids=["2025-11-25", "2026-07-28"], indirect=True)
def test_frames(server: FuzzServer, counts: Counter[str]) -> None:
    def check(lines: list[bytes]) -> None:
        for line in lines:
            server.send(line)
        assert "result" in server.request("tools/list", {})

    fuzz(st.lists(frames, min_size=1, max_size=6), check, counts, "bursts of frames")


def test_arguments(server: FuzzServer, counts: Counter[str]) -> None:
    calls = [st.tuples(st.just(name), arguments(schema)) for name, schema in tools(server).items()]
    fuzz(st.one_of(*calls), lambda call: server.call(*call), counts, "calls of tools")
    assert server.call("generate_text", {"prompt": "still there"})["result"]["content"][0]["text"] == "still there"


def test_paths(server: FuzzServer, counts: Counter[str]) -> None:
    some = st.lists(paths(server.tree), min_size=1, max_size=3)
    calls = st.one_of(
        some.map(lambda specs: ("generate_text", {"prompt": "say it", "files": specs, "max_tokens": 2000})),
        some.map(lambda specs: ("chat", {"message": "say it", "files": specs, "max_tokens": 2000})),
        some.map(lambda specs: ("map_files", {"instruction": "say it", "files": specs, "max_tokens": 2000})),
        some.map(lambda specs: ("analyze_image", {"images": specs})),
        some.map(lambda specs: ("complete_code", {"prefix": "x", "file": specs[0]})),
        some.map(lambda specs: ("complete_code", {"file": specs[0], "line": 1})),
    )
    fuzz(calls, lambda call: server.call(*call), counts, "calls with paths")
    text = server.call("generate_text", {"prompt": "x", "files": ["a.txt"]})["result"]["content"][0]["text"]
    assert "one\ntwo" in text


def test_git(git_server: FuzzServer, counts: Counter[str]) -> None:
    some = st.lists(git_specs(), min_size=1, max_size=2)
    calls = some.map(lambda specs: ("generate_text", {"prompt": "x", "files": specs, "max_tokens": 3000}))
    fuzz(calls, lambda call: git_server.call(*call), counts, "calls with git's revisions")
    for spec, words in (("git:diff --staged", "+staged"), ("git:show v1", "+main"), ("git:show side:a.txt", "side")):
        answer = git_server.call("generate_text", {"prompt": "x", "files": [spec], "max_tokens": 3000})
        assert words in answer["result"]["content"][0]["text"]


def test_images(server: FuzzServer, counts: Counter[str]) -> None:
    file = server.tree.project / "image.bin"

    def check(example: tuple[bytes, str | None]) -> None:
        data, form = example
        if form is None:
            file.write_bytes(data)
        spec = file.name if form is None else as_text(data, form)
        server.call("analyze_image", {"images": [spec], "question": "what is it", "detail": "low"})

    fuzz(st.tuples(images, st.sampled_from((None, *FORMS))), check, counts, "images")


def test_schemas(server: FuzzServer, counts: Counter[str]) -> None:
    server.call("generate_text", {"prompt": "load it", "model": "starter", "max_tokens": 1})

    def check(example: tuple[Any, str]) -> None:
        schema, model = example
        options = {"model": model, "max_tokens": 4, "max_seconds": 10}
        server.call("generate_text", {"prompt": json.dumps("{}"), "json_schema": schema, **options})

    fuzz(st.tuples(schemas, st.sampled_from(("echo", "starter"))), check, counts, "JSON schemas")
