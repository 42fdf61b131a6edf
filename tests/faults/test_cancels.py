"""Cancels at random moments, through a real engine; `python -m benchmarks.cancels` runs a thousand of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.cancels import MOMENTS, SETTINGS, cancels
from gemma_mcp.testing.engines import EngineHome


@pytest.fixture
def home(tmp_path: Path) -> Iterator[EngineHome]:
    home = EngineHome(tmp_path / "home", SETTINGS)
    yield home
    assert home.end() == []


async def test_one_step_after_a_cancel_nothing_is_left_of_its_request(home: EngineHome) -> None:
    hits = await cancels(home, 100, 7, ("echo",))
    assert hits.total() >= 100
    assert {moment.removeprefix("echo: ") for moment in hits} >= set(MOMENTS) - {"loading"}
