"""Charts are well-formed SVG with every point inside."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.charts import HEIGHT, WIDTH, histogram, interval_chart, line_chart

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def check(html: str) -> None:
    root = ElementTree.fromstring(f"<div>{html}</div>")
    for element in root.iter():
        for x, y in re.findall(r"([\d.-]+),([\d.-]+)", element.get("points", "")):
            assert -0.1 <= float(x) <= WIDTH + 0.1
            assert -0.1 <= float(y) <= HEIGHT + 0.1


@given(SHARES, SHARES)
def test_any_curve(first: list[float], second: list[float]) -> None:
    series = [(name, list(enumerate(sorted(values), 1))) for name, values in (("a", first), ("b", second))]
    check(line_chart("r", series, "k"))


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_any_histogram(shares: list[float]) -> None:
    check(histogram("h", [("a", shares), ("b", [0.0, 0.0, 0.0])], -0.5, 1.0, "cosine"))


def test_names_are_escaped() -> None:
    html = interval_chart("<t>", [("<script>", 0.5, 0.4, 0.6)], 0.5)
    check(html)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert html.count("dash") == 1


@pytest.mark.parametrize("points", [[(1, 1.0)], [(1, 0.0), (2, 0.0)]])
def test_degenerate_curves(points: list[tuple[int, float]]) -> None:
    check(line_chart("r", [("a", points)], "k"))
