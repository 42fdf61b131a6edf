"""The benchmark itself, small: real engines, a real model with random weights."""

import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import psutil
import pytest
from bench_plans import plan_of

from gemma_mcp.bench.exchange import new_http
from gemma_mcp.bench.plan import run_plan
from gemma_mcp.bench.results import Results, read_results, write_results
from gemma_mcp.bench.soak import KINDS, run_soak
from gemma_mcp.bench.targets import Peer, peer_target
from gemma_mcp.errors import RemoteError
from gemma_mcp.testing.engines import EngineHome

SMALL = (
    "prefill:40",
    "decode:16",
    "concurrency:requests=3,prompt=20,out=8",
    "map:requests=3,shared=40,own=8,out=8",
    "ask:questions=2,document=80,question=8,out=4",
    "mixed:streams=2,long=600,before=4",
)


def silent(share: float, text: str) -> None:
    """Progress that nobody reads."""


def run(model: str | None, scenarios: tuple[str, ...], folder: Path, **options: object) -> Results:
    found: list[Results] = []
    anyio.run(run_plan, plan_of(model, scenarios, folder / "user", **options), folder / "homes", silent, found.append)
    assert len(found) == len(scenarios)
    return found[-1]


def processes_of(folder: Path) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and str(folder) in process.environ().get("GEMMA_MCP_HOME", ""):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def results(tiny: Path, folder: Path) -> Results:
    """All scenarios, two rounds, with and without sharing."""
    return run(str(tiny), SMALL, folder)


def values(results: Results, scenario: str, target: str, metric: str) -> tuple[float, ...]:
    name = next(one for one in results.scenarios() if one.startswith(f"{scenario}:"))
    found = results.find(name, target, metric)
    assert found is not None
    return found.values


def test_every_scenario_has_a_value_a_round_for_each_engine(results: Results) -> None:
    assert results.failures == ()
    assert {name.split(":")[0] for name in results.scenarios()} == {text.split(":")[0] for text in SMALL} | {"memory"}
    measured = [one for one in results.series if one.scenario != "memory"]
    assert {len(one.values) for one in measured} == {2}
    assert {one.target for one in measured} == {"ours", "unshared"}


@pytest.mark.parametrize(
    ("scenario", "tokens"),
    [("prefill", 41), ("concurrency", 3 * 21), ("map", 3 * 49), ("ask", 2 * 89), ("mixed", 601)],
)
def test_prompts_have_exactly_the_tokens_that_were_asked_for(results: Results, scenario: str, tokens: int) -> None:
    for target in ("ours", "unshared"):
        assert values(results, scenario, target, "prompt_tokens") == (tokens, tokens)


def test_the_engine_without_sharing_takes_nothing_from_its_cache(results: Results) -> None:
    for scenario in ("concurrency", "map", "ask"):
        assert values(results, scenario, "unshared", "cached_tokens") == (0, 0)


def test_prompts_of_a_round_are_not_found_in_the_cache_of_an_earlier_one(results: Results) -> None:
    beginnings = 3  # each begins with the same token
    assert max(values(results, "concurrency", "ours", "cached_tokens")) <= beginnings


def test_what_is_needed_to_compare_is_written_down_and_read_again(results: Results, tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", results)
    assert read_results(tmp_path / "results.json") == results
    assert results.machine.usable_cores >= 1
    assert "llama.cpp" in results.targets[0].runtime
    assert results.targets[0].settings["slots"] == 3
    assert results.bandwidth_bytes > 0
    assert results.model.token_bytes > 0


def test_engine_and_worker_memory_is_told(results: Results) -> None:
    for metric in ("engine_bytes", "worker_bytes"):
        figure = results.find("memory", "ours", metric)
        assert figure is not None
        assert figure.median > 1_000_000


def test_a_conversation_goes_on_with_its_whole_history_after_the_engine_was_restarted(
    tiny: Path, tmp_path: Path
) -> None:
    found = run(str(tiny), ("chat:history=96,new=8,out=4",), tmp_path, engines=("ours",), rounds=1)
    (prompt_tokens,) = values(found, "chat", "ours", "prompt_tokens")
    assert prompt_tokens > 96 + 4 * 8
    assert min(values(found, "chat", "ours", "ttft_restarted")) > 0
    assert processes_of(tmp_path) == []


def test_engines_of_the_benchmark_are_gone_afterwards(results: Results, folder: Path) -> None:
    assert processes_of(folder) == []


@pytest.fixture
def running(tmp_path: Path) -> Iterator[EngineHome]:
    """An engine that somebody runs, with the echo model: a peer that knows nothing beyond OpenAI's API and our own."""
    home = EngineHome(tmp_path / "peer", {"GEMMA_MCP_MODEL_DEFAULT": "echo"})
    home.start()
    yield home
    assert home.end() == []


def test_a_peer_is_asked_over_its_url_without_options_that_it_refuses(running: EngineHome, tmp_path: Path) -> None:
    peer = Peer("other", running.state().url + "/v1", "echo", running.state().token)
    found = run(None, ("concurrency:2,out=8", "chat"), tmp_path, engines=(), peers=(peer,))
    assert found.targets[0].options == {}
    assert len(values(found, "concurrency", "other", "seconds")) == 2
    assert found.notes == ("chat: left out for other, which cannot be restarted from here.",)


def test_an_engine_that_fails_is_out_of_that_scenario_and_not_of_the_next(running: EngineHome, tmp_path: Path) -> None:
    peer = Peer("other", running.state().url, "echo", running.state().token)
    found = run(None, ("prefill:100000", "prefill:8"), tmp_path, engines=(), peers=(peer,))
    (failure,) = found.failures
    assert failure.startswith("prefill, round 1: The engine 'other' refused a request with status 400")
    assert found.scenarios() == ["prefill:prompt=8"]


async def test_a_reply_that_ends_early_is_an_error_as_its_times_mean_nothing(running: EngineHome) -> None:
    async with new_http() as http:
        state = running.state()
        target = await peer_target(http, Peer("other", state.url, "echo", state.token), {})
        with pytest.raises(RemoteError, match=r"'other' ended a reply after 5 of 64 tokens"):
            await target.chat([{"role": "user", "content": "hello"}], 64).run()


def test_a_peer_that_is_not_there_is_named(tmp_path: Path) -> None:
    peer = Peer("gone", "http://127.0.0.1:9")
    with pytest.raises(RemoteError, match="'gone' cannot be reached"):
        run(None, ("prefill",), tmp_path, engines=(), peers=(peer,))


def test_a_soak_sends_requests_of_every_kind_and_samples_memory(tiny: Path, tmp_path: Path) -> None:
    plan = plan_of(str(tiny), (), tmp_path / "user", engines=("ours",))
    found = anyio.run(run_soak, plan, 1.5, tmp_path / "homes", silent)
    assert found.requests == sum(found.kinds.values()) > 0
    assert set(found.kinds) <= set(KINDS) - {"image"}
    assert all(sample.worker_bytes > 1_000_000 for sample in found.samples)
    assert processes_of(tmp_path) == []
