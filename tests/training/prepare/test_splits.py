from __future__ import annotations

import hashlib
from collections import Counter

import pytest

from training.prepare.errors import PrepareError
from training.prepare.splits import choose_split, parse_splits


def test_parse() -> None:
    assert parse_splits("train=0.9, test=0.1") == (("train", 0.9), ("test", 0.1))
    assert parse_splits("train") == (("train", 1.0),)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", "not a name"), ("train=0.5", "add up to 0.5"), ("train=x", "not a number"), ("train=0.5,train=0.5", "twice"),
        ("../x=1", "not a name"), ("train=2,test=-1", "between 0 and 1"), ("train=nan", "between 0 and 1"), ("a,b", "add up to 2"),
    ],
)  # fmt: skip
def test_a_spec_that_makes_no_sense(spec: str, says: str) -> None:
    with pytest.raises(PrepareError, match=says):
        parse_splits(spec)


def test_shares_are_met_and_the_seed_deals_anew() -> None:
    splits = parse_splits("train=0.8,val=0.15,test=0.05")
    contents = [hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(5000)]
    first = [choose_split(c, splits, 0) for c in contents]
    assert [n / 5000 for _, n in sorted(Counter(first).items())] == pytest.approx([0.8, 0.15, 0.05], abs=0.02)
    assert first == [choose_split(c, splits, 0) for c in contents]
    assert first != [choose_split(c, splits, 1) for c in contents]


def test_a_share_of_nothing_gets_nothing() -> None:
    splits = parse_splits("train=1,test=0")
    assert {choose_split(bytes([i]), splits, 0) for i in range(200)} == {0}
