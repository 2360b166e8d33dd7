from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from training.prepare import Options, prepare_pairs
from training.prepare.errors import PrepareError
from training.prepare.leakage import find_leaks, read_prepared
from training.prepare.near_duplicates import Nearness, same_only

FOREIGN = 1000


def test_the_same_picture_in_two_splits() -> None:
    nearness = same_only(np.array(list("aabbcda")))
    split = np.array([0, 1, 0, 0, 0, 1, 0])
    leaks = find_leaks(nearness, split, np.ones(7, dtype=bool), FOREIGN)
    assert leaks.pictures == [0, 1, 6]
    assert leaks.losers == [(0, 1), (6, 1)]  # split 1 is the smaller


def test_what_is_out_does_not_leak() -> None:
    nearness = same_only(np.array(list("aabb")))
    alive = np.array([True, False, True, True])
    assert find_leaks(nearness, np.array([0, 1, 0, 0]), alive, FOREIGN).pictures == []


def test_near_ones_leak_and_a_chain_over_a_dropped_one_does_not() -> None:
    nearness = Nearness(np.arange(3), np.array([[0, 1], [1, 2]]), np.zeros(3, dtype=np.int64))
    split = np.array([0, 0, 1])
    assert find_leaks(nearness, split, np.ones(3, dtype=bool), FOREIGN).pictures == [1, 2]
    assert find_leaks(nearness, split, np.array([True, False, True]), FOREIGN).pictures == []


def test_other_data_never_lose() -> None:
    leaks = find_leaks(
        same_only(np.array(list("aab"))), np.array([0, FOREIGN, FOREIGN]), np.ones(3, dtype=bool), FOREIGN
    )
    assert leaks.losers == [(0, 1)]


def test_read_prepared(tmp_path: Path, table: Callable[..., Path], picture: Callable[..., bytes]) -> None:
    pictures = [picture(i) for i in range(5)]
    source = table([(data, {"caption": f"scenery number {i}"}) for i, data in enumerate(pictures)])
    prepare_pairs(source, tmp_path / "data", Options(splits="train=0.6,test=0.4", shard_size=2))
    assert sorted(data for _, data in read_prepared(tmp_path / "data")) == sorted(pictures)

    shard = next((tmp_path / "data").glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(PrepareError, match="cut short"):
        list(read_prepared(tmp_path / "data"))
    shard.unlink()
    with pytest.raises(PrepareError, match="cannot be read"):
        list(read_prepared(tmp_path / "data"))
    (tmp_path / "data" / "manifest.json").write_text(json.dumps({"format": "crossmodal-pairs", "version": 9}))
    with pytest.raises(PrepareError, match="not prepared data of version 1"):
        list(read_prepared(tmp_path / "data"))
    with pytest.raises(PrepareError, match="not prepared data"):
        list(read_prepared(tmp_path))
