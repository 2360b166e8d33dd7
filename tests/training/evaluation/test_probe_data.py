"""Probes from a table, and rows that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dual_encoder import DualEncoder
from training.evaluation.probe_data import probe_table, read_probes
from training.pairs import DataError
from training.scenes import Scene, Thing, draw

GOOD = {"image": "0.png", "caption": "a red star", "negative": "a blue star"}


def write(folder: Path, *rows: object) -> Path:
    path = folder / "probes.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def test_one_and_several_negatives(tmp_path: Path, encoder: DualEncoder) -> None:
    draw(Scene((Thing("star", "red", "large", "solid"),), 1, "centre", "white", "plain"), 1).save(tmp_path / "0.png")
    table = write(
        tmp_path,
        {**GOOD, "probe": "colour", "language": "en"},
        {**GOOD, "negative": ["a green star", "a black star"], "probe": "colour", "language": "en"},
        {**GOOD, "caption": "a blue star", "negative": "a red star", "probe": "lie", "language": "en"},
    )
    figures = probe_table(encoder, table)
    assert {r["probe"]: (r["count"], r["accuracy"]) for r in figures["probes"]} == {"colour": (2, 1.0), "lie": (1, 0.0)}
    assert probe_table(encoder, table, limit=1)["all"]["count"] == 1
    with pytest.raises(DataError, match="no probes in it in language 'zh'"):
        probe_table(encoder, table, "zh")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{", "row 2"),
        ("[]", "row 2: not an object"),
        ({"image": "0.png", "caption": "x"}, "row 2: no column 'negative'"),
        ({**GOOD, "negative": []}, "row 2: negative"),
        ({**GOOD, "negative": [3]}, "row 2: negative"),
        ({**GOOD, "caption": " "}, "row 2: caption"),
        ({**GOOD, "image": 3}, "row 2: image"),
        ({**GOOD, "negative": "a red star"}, "row 2: negative is the caption itself"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, row: object, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_probes(write(tmp_path, GOOD, row))


def test_an_empty_or_missing_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no probes in it"):
        read_probes(write(tmp_path))
    with pytest.raises(DataError, match="no such table"):
        read_probes(tmp_path / "gone.jsonl")
