from __future__ import annotations

from pathlib import Path

import pytest

from training.prepare.checks import Refusal
from training.prepare.page import render_page
from training.prepare.rejects import STEPS, Rejects
from training.prepare.report import Figures, Histogram, step_rows


@pytest.mark.parametrize(("value", "bin"), [(-5, 0), (0, 0), (9.9, 0), (10, 1), (20, 2), (1e9, 2)])
def test_histogram(value: float, bin: int) -> None:
    histogram = Histogram((0, 10, 20))
    histogram.add(value)
    assert histogram.counts.index(1) == bin


def test_rows_count_down(tmp_path: Path) -> None:
    rejects = Rejects(tmp_path / "rejects.jsonl")
    rejects.picture("a", Refusal("too small", "why"), ["x", "y"])
    rejects.caption("b", Refusal("boilerplate", "why", "untitled"))
    rejects.merged("c", Refusal("exact duplicate", "why"))
    rejects.close()
    rows = step_rows(10, 20, rejects)
    assert [row["step"] for row in rows] == list(STEPS)
    assert (rows[-1]["pictures_left"], rows[-1]["captions_left"]) == (8, 17)
    assert rejects.first == "a: why"
    assert len((tmp_path / "rejects.jsonl").read_text().splitlines()) == 3


def test_samples_are_few_and_the_same_every_time(tmp_path: Path) -> None:
    def sample() -> list[str]:
        rejects = Rejects(tmp_path / "rejects.jsonl")
        for i in range(200):
            rejects.picture(f"{i}.png", Refusal("too small", "why"), [], lambda: b"jpeg")
        rejects.close()
        return [line["uri"] for line in rejects.samples()["too small"]]

    first = sample()
    assert len(first) == 6
    assert first == sample()


def test_the_page_escapes_everything() -> None:
    evil = "<script>alert(1)</script>\"'&"
    figures = Figures()
    figures.add({"width": 9, "height": 9, "languages": [evil], "captions": [evil], "suffix": evil})
    report = {
        "source": evil, "options": {"model": evil, "splits": evil}, "records": 2, "captions": 2,
        "kept": {"pictures": 1, "captions": 1}, "near_duplicates": {"groups": 0, "largest": 0},
        "splits": {evil: {"pairs": 1, "captions": 1, "shards": 1}}, "histograms": figures.to_json(),
        "steps": [{"step": evil, "pictures": 1, "captions": 1, "pictures_left": 1, "captions_left": 1}],
    }  # fmt: skip
    line = {"uri": evil, "captions": [evil], "split": evil, "reason": evil, "thumbnail": b"\xff", "beside": b""}
    page = render_page(report, [line], {evil: [line]})
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 10
    assert 'src="data:image/jpeg;base64,/w=="' in page
    assert "http" not in page  # nothing from elsewhere
