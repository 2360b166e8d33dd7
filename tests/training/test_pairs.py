"""Pairs: what a table may hold, the order of batches, what is chosen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dual_encoder.preprocess import Preprocess
from training.pairs import DataError, PairDataset, batches, load_pixels, read_pairs

PREPROCESS = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3)


def test_batches_can_start_anywhere() -> None:
    stream = batches(50, 16, seed=3)
    first = [next(stream) for _ in range(8)]
    later = batches(50, 16, seed=3, start=5)
    assert [next(later) for _ in range(3)] == first[5:]
    assert len({pair for batch in first[:3] for pair, _ in batch}) == 48
    with pytest.raises(DataError, match="do not fill"):
        next(batches(3, 16, 0))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"image": "b.jpg", "caption": 3}, "caption is not a string"),
        ({"image": "b.jpg", "caption": ["a", None]}, "caption is not a string"),
        ({"image": "b.jpg", "caption": []}, "caption is not a string"),
        ({"caption": "a"}, "no column 'image'"),
        ({"image": 5, "caption": "a"}, "image is not a path"),
        ({"image": "b.jpg", "caption": ["a", "b"], "language": ["en"]}, "language is not a string or a list of 2"),
        ({"image": "b.jpg", "caption": ["a", "b"], "language": [1, 2]}, "language is not a string or a list of 2"),
        ({"image": "b.jpg", "caption": "a", "negatives": "b"}, "negatives is not a list"),
        (["b.jpg"], "row 2: not an object"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: object, words: str) -> None:
    table = tmp_path / "captions.jsonl"
    table.write_text(json.dumps({"image": "a.jpg", "caption": "x"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=words) as error:
        read_pairs(tmp_path)
    assert f"{table}, row 2" in str(error.value)


def test_what_others_write(tmp_path: Path) -> None:
    """pandas has null for what is missing, Windows a BOM, and JSON halves of characters; blank lines are no rows."""
    nothing = {"language": None, "negatives": None, "group": None}
    rows = [{"image": "a.jpg", "caption": "x\ud83d", **nothing, "note": "\ud83d"}, {"image": "b.jpg", "caption": "y", **nothing},
            {"image": "c.jpg", "caption": ["y", "z"], "language": ["en", None], "group": float("nan")}]  # fmt: skip
    (tmp_path / "captions.jsonl").write_bytes(
        b"\xef\xbb\xbf" + "\r\n\r\n".join(map(json.dumps, rows)).encode() + b"\r\n"
    )
    pairs = read_pairs(tmp_path)[:]
    assert [pair.group for pair in pairs] == ["", "", ""]
    assert [pair.captions for pair in pairs] == [("x?",), ("y",), ("y", "z")]
    assert [pair.languages for pair in pairs] == [("",), ("",), ("en", "")]
    (tmp_path / "captions.jsonl").write_bytes(b'{"image": "caf\xe9.jpg"}')
    with pytest.raises(DataError, match=r"captions\.jsonl: .*decode"):
        read_pairs(tmp_path)


def test_no_table_and_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such table"):
        read_pairs(tmp_path)
    (tmp_path / "captions.jsonl").write_text("")
    with pytest.raises(DataError, match="no pairs"):
        read_pairs(tmp_path)
    (tmp_path / "pairs.csv").write_text("image,caption\na.jpg,a\n")
    with pytest.raises(DataError, match=r"pairs\.csv, row 1: not JSON .*; pairs are read from JSON lines"):
        read_pairs(tmp_path / "pairs.csv")


def test_a_table_of_many(data: Path) -> None:
    pairs = read_pairs(data)
    assert len(pairs) == len(pairs[:]) == 64
    assert pairs[-1] == pairs[63]
    assert set(pairs[0].languages) == {"en", "zh"}
    assert pairs[0].metadata["background"]
    with pytest.raises(IndexError):
        pairs[64]


def test_what_is_chosen_hangs_on_the_seed_alone(data: Path) -> None:
    dataset = PairDataset(read_pairs(data), PREPROCESS, captions=2, negatives=2, by_length=True, crop=0.7)
    first, again, other = dataset[(3, 1)], dataset[(3, 1)], dataset[(3, 2)]
    assert first.captions == again.captions
    assert np.array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, other.pixels)
    assert first.known == other.known
    assert set(first.said[:2]) <= set(first.known)  # captions are known of their picture
    assert not set(first.said[2:]) & set(first.known)  # negatives are not


def test_longer_captions_are_chosen_more_often_but_languages_alike(data: Path) -> None:
    pairs = read_pairs(data)
    picked = [PairDataset(pairs, PREPROCESS, by_length=True)[(0, seed)].captions[0] for seed in range(400)]
    spoken = dict(zip(pairs[0].captions, pairs[0].languages, strict=True))
    assert 150 < sum(spoken[text] == "zh" for text in picked) < 250
    english = [len(text) for text in picked if spoken[text] == "en"]
    every = [len(text) for text, language in spoken.items() if language == "en"]
    assert np.mean(english) > np.mean(every) * 1.3


def test_pixels(data: Path, tmp_path: Path) -> None:
    pair = read_pairs(data)[0]
    assert load_pixels(pair, PREPROCESS).shape == (32, 32, 3)
    assert np.array_equal(load_pixels(pair, PREPROCESS), load_pixels(pair.image, PREPROCESS))
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"x\.jpg"):
        load_pixels(tmp_path / "x.jpg", PREPROCESS)


def test_negatives_in_another_order_come_first(tmp_path: Path, data: Path) -> None:
    image = str(data / read_pairs(data)[0].image)
    rows = [
        {"image": image, "caption": ["a red ring above a star", "红色圆环在星形上面"],
         "negatives": ["a red star above a ring", "a blue ring above a star", "星形在红色圆环上面"]},
        {"image": image, "caption": "two rings", "negatives": ["three rings"]},
        {"image": image, "caption": "a ring"},
    ]  # fmt: skip
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def chosen(row: int, *, reordered: bool) -> set[str]:
        dataset = PairDataset(read_pairs(tmp_path), PREPROCESS, negatives=2, reordered=reordered)
        return {text for seed in range(30) for text in dataset[row, seed].negatives}

    assert chosen(0, reordered=True) == {"a red star above a ring", "星形在红色圆环上面"}
    assert chosen(0, reordered=False) == set(rows[0]["negatives"])
    assert chosen(1, reordered=True) == {"three rings"}, "where none is in another order, any of them"
    assert chosen(2, reordered=True) == {"a ring"}, "the caption fills the place"
