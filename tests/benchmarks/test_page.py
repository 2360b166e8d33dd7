"""The page says what was measured, what was not, and where a goal is missed."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from benchmarks.goals import GOALS
from benchmarks.page import NAMES, write
from benchmarks.plots import line_chart, ticks

CONDITIONS = {"when": "2026-01-01T00:00:00+00:00", "processor": "a CPU (avx2)", "cores": 2, "load_average": 0.1}
CLOSED = {"query": "text", "loop": "closed", "p50_ms": 10.0, "p95_ms": 12.0, "p99_ms": 20.0, "per_second": 100.0}
RESULTS = {
    "serve": [
        {**CLOSED, "clients": 1, "loop_lag_p99_ms": 5.0},
        {**CLOSED, "clients": 128, "loop_lag_p99_ms": 50.0},
        {**CLOSED, "query": "text, k = 10,000 with metadata", "clients": 1, "p50_ms": 40.0},
    ],
    "peers": [
        {"query": "text", "clients": 32, "service": "clip-retrieval", "per_second": 5.0, "p50_ms": 90.0,
         "crossmodal_throughput_over": 20.0, "crossmodal_p50_over": 0.1},
        {"service": "infinity-emb", "error": "cannot be installed: no such version"},
    ],
    "memory": [{"queries": 0, "rss_mb": 900.0, "over_first": None},
               {"queries": 1000, "rss_mb": 1000.0, "over_first": 1.0},
               {"queries": 5000, "rss_mb": 1040.0, "over_first": 1.04}],
}  # fmt: skip


@pytest.fixture
def page(tmp_path):
    (tmp_path / "results").mkdir()
    for name, rows in RESULTS.items():
        said = {"name": name, "conditions": CONDITIONS, "rows": rows}
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(said), "utf-8")
    return write(tmp_path / "results", tmp_path / "docs.md")


def test_goals(page) -> None:
    text = page.read_text("utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    (lag,) = [line for line in lines if "event-loop lag" in line]
    assert lag.endswith("| ≤ 20 ms | 50 ms | **not reached** |")
    (deep,) = [line for line in lines if "k = 10,000 with metadata over" in line]
    assert deep.endswith("| ≤ 5× | 4× | reached |")
    (peer,) = [line for line in lines if "32 clients, over clip-retrieval" in line]
    assert peer.endswith("| ≥ 15× | 20× | reached |")
    assert any("1.04× | reached" in line for line in lines)
    assert "**1 of 21 goals are not reached.**" in text
    assert f"{len(GOALS) - 4} have not been measured." in text


def test_conditions_and_errors_are_told(page) -> None:
    text = page.read_text("utf-8")
    assert "- processor: a CPU (avx2)" in text
    assert "cannot be installed: no such version" in text


def test_plots_are_whole_and_linked(page) -> None:
    plots = {path.stem: path for path in page.with_suffix("").glob("*.svg")}
    assert plots.keys() == {"throughput", "latency", "memory"}
    for name, path in plots.items():
        ET.fromstring(path.read_text("utf-8"))
        assert f"(docs/{name}.svg)" in page.read_text("utf-8")


def test_without_results(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="python -m benchmarks"):
        write(tmp_path, tmp_path / "docs.md")


def test_every_goal_names_a_benchmark() -> None:
    assert {goal.script for goal in GOALS} <= set(NAMES)


def test_line_chart_refuses_nothing() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        line_chart("empty", [("none", [(1, 0)])], "x", "y")


def test_ticks() -> None:
    assert ticks(9, 110) == [10, 20, 50, 100]
    assert ticks(0.5, 20_000) == [1, 10, 100, 1000, 10_000]
