import xml.etree.ElementTree as ElementTree
from pathlib import Path

import msgspec
import pytest
from bench_plans import MACHINE, made_up, series

from gemma_mcp.bench.chart import chart
from gemma_mcp.bench.comparison import differences, regressions
from gemma_mcp.bench.results import Series, number, read_results, write_results
from gemma_mcp.bench.scenario import percentile
from gemma_mcp.bench.scenarios import SCENARIOS, identity, parse_scenario
from gemma_mcp.cli.bench_table import lines
from gemma_mcp.errors import InputRefusedError, RequestError

STEADY = series("seconds", "ours", 7.0, 7.1, 7.2)


def test_a_median_that_is_worse_than_the_spreads_allow_is_a_regression_in_one_sentence() -> None:
    (found,) = regressions(made_up(STEADY), made_up(series("seconds", "ours", 8.8, 8.9, 9.0)))
    assert str(found) == ("map:requests=8, ours: seconds rose from 7.10 s to 8.90 s (+25%), more than the noise of 3%.")


def test_rates_are_worse_when_they_fall() -> None:
    old = made_up(series("rate", "ours", 100.0, unit="tokens/s", better="higher"))
    assert regressions(old, made_up(series("rate", "ours", 120.0, unit="tokens/s", better="higher"))) == []
    (found,) = regressions(old, made_up(series("rate", "ours", 80.0, unit="tokens/s", better="higher")))
    assert "rate fell from 100 tokens/s to 80.0 tokens/s (-20%)" in str(found)


@pytest.mark.parametrize(
    "new",
    [
        series("seconds", "ours", 7.2, 7.3, 7.4),  # less than 3 %
        series("seconds", "ours", 6.0, 8.0, 10.0),  # 13 % worse, and spread over 50 %
        series("seconds", "ours", 5.0, 5.1, 5.2),  # better
    ],
)
def test_a_difference_within_the_noise_is_no_regression(new: Series) -> None:
    assert regressions(made_up(STEADY), made_up(new)) == []


def test_what_is_only_told_is_not_compared() -> None:
    old = made_up(STEADY, series("cached_tokens", "ours", 100.0, unit="tokens", better=""))
    assert regressions(old, made_up(STEADY, series("cached_tokens", "ours", 1.0, unit="tokens", better=""))) == []


def test_results_without_a_figure_in_common_cannot_be_compared() -> None:
    with pytest.raises(RequestError, match="no figure in common"):
        regressions(made_up(STEADY), made_up(series("seconds", "peer", 1.0)))


def test_another_machine_model_or_setting_is_said() -> None:
    old, new = made_up(STEADY), made_up(STEADY, machine=msgspec.structs.replace(MACHINE, usable_cores=4))
    assert differences(old, new) == ["The old figures are of another machine or Python: Test Processor."]
    assert differences(old, old) == []


def test_a_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    with pytest.raises(InputRefusedError, match="cannot be read"):
        read_results(path)
    path.write_text('{"format": 1}', encoding="utf-8")
    with pytest.raises(InputRefusedError, match="no result of a benchmark"):
        read_results(path)
    write_results(path, made_up(STEADY, format=99))
    with pytest.raises(InputRefusedError, match="another release"):
        read_results(path)


def test_the_table_compares_the_first_engine_with_each_other_round_by_round_within_80_columns() -> None:
    peer = series("seconds", "peer-nine", 14.0, 14.2, 18.0)
    told = list(lines(made_up(STEADY, peer, bandwidth_bytes=20e9)))
    (row,) = (line for line in told if "peer-nine" in line and "14.2" in line)
    assert row.split() == ["peer-nine", "14.2", "14.0..18.0", "0.50x", "0.40..0.50"]
    assert max(map(len, told)) <= 79


@pytest.mark.parametrize("name", SCENARIOS)
def test_titles_and_labels_fit_80_columns(name: str) -> None:
    scenario = parse_scenario(name)
    title = f"{name}: {scenario.describe()}"
    figures = [
        Series(name, title, target, one.key, one.label, one.unit, one.better, (0.0123, 0.0456, 0.0789))
        for one in scenario.metrics
        for target in ("ours", "unshared", "peer-nine")
    ]
    assert max(map(len, lines(made_up(*figures)))) <= 79


def test_the_chart_is_well_formed_and_has_a_bar_for_each_engine() -> None:
    peer = series("seconds", "<peer>", 14.0, 14.2, 18.0)
    drawn = ElementTree.fromstring(chart(made_up(STEADY, peer)))
    bars = [float(one.get("width", 0)) for one in drawn.iter("{http://www.w3.org/2000/svg}rect")][1:]
    texts = ["".join(one.itertext()) for one in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert len(bars) == 2
    assert bars[0] / bars[1] == pytest.approx(7.1 / 14.2, rel=0.01)
    assert {"ours", "<peer>", "7.10 s", "14.2 s"} <= set(texts)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("map", "map:requests=8,shared=512,own=32,out=64"),
        ("map:32", "map:requests=32,shared=512,own=32,out=64"),
        ("map:4,own=16", "map:requests=4,shared=512,own=16,out=64"),
        ("ask:document=100", "ask:questions=8,document=100,question=32,out=64"),
    ],
)
def test_a_scenario_is_named_with_the_numbers_that_differ(text: str, meant: str) -> None:
    assert identity(parse_scenario(text)) == meant


@pytest.mark.parametrize("text", ["map:0", "map:x=3", "map:requests=-1", "map:1.5", "map:9999999999"])
def test_numbers_that_cannot_be_meant_are_refused_with_those_that_can(text: str) -> None:
    with pytest.raises(RequestError, match="requests=N, shared=N, own=N, out=N"):
        parse_scenario(text)


def test_an_unknown_scenario_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match="prefill, decode, concurrency, map, ask, chat, mixed"):
        parse_scenario("mop")


def test_numbers_have_three_digits_that_count() -> None:
    assert [number(one) for one in (0.01234, 7.1, 45.96, 118.2, 12345.6)] == [
        "0.0123",
        "7.10",
        "46.0",
        "118",
        "12,346",
    ]


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([5.0, 1.0, 3.0], 0.99) == 5.0
    assert percentile(list(map(float, range(1, 201))), 0.99) == 198.0
    assert percentile([2.0], 0.5) == 2.0
