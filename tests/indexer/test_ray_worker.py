"""A worker without Ray: what it answers does not depend on what it still holds."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from corpus import open_source
from dual_encoder import DualEncoder
from indexer.engine import Job
from indexer.ray_worker import Encoded, Worker
from indexer.rows import Row

JOB = Job(part_size=60, batch_size=8, thumbnails=True)


@pytest.fixture
def packed(scenes: Path) -> bytes:
    return pickle.dumps(list(open_source(scenes).records()))


def worker() -> Worker:
    made = Worker("tiny", "cpu", "auto", "auto", 2)
    assert made.hello().dim
    return made


def same(a: Encoded, b: Encoded) -> bool:
    return bool((a.vectors == b.vectors).all() and (a.text_vectors == b.text_vectors).all() and a[1] == b[1])


def test_what_is_held_no_longer_is_read_again(packed: bytes, encoder: DualEncoder) -> None:
    chosen, texts = list(range(0, 60, 2)), ["a red star", "四个蓝色圆形"]
    busy = worker()
    rows = busy.read(0, packed, JOB)
    held = busy.encode(0, packed, JOB, chosen, texts)
    for number in range(1, 4):
        busy.read(number, packed, JOB)
    assert len(busy._held) == 3
    assert same(busy.encode(2, packed, JOB, chosen, texts), held)
    assert same(worker().encode(0, packed, JOB, chosen, texts), held)
    assert (held.vectors.shape, held.text_vectors.shape) == ((30, encoder.dim), (2, encoder.dim))
    np.testing.assert_array_equal(held.text_vectors, encoder.encode_texts(texts))
    assert [row["reject"] for row in rows] == [None] * 60
    assert all(held.thumbnails)


def test_a_part_read_beside_takes_nothing_from_one_that_is_encoded(scenes: Path) -> None:
    packed = pickle.dumps(list(open_source(scenes).records())[:4])

    class Busy(Worker):
        """Reads part 9 whenever it has read another."""

        def read(self, number: int, packed: bytes, job: Job) -> list[Row]:
            rows = super().read(number, packed, job)
            if number != 9:
                super().read(9, packed, job)
            return rows

    busy = Busy("tiny", "cpu", "auto", "auto", 1)
    busy.hello()
    for number in (1, 2, 9):
        Worker.read(busy, number, packed, JOB)
    assert len(busy.encode(10, packed, JOB, [0, 3], []).vectors) == 2


def test_nothing_chosen(packed: bytes, encoder: DualEncoder) -> None:
    encoded = worker().encode(0, packed, JOB, [], [])
    assert (encoded.vectors.shape, encoded.text_vectors.shape) == ((0, encoder.dim), (0, encoder.dim))


def test_a_model_that_is_not_there() -> None:
    assert "no such directory" in Worker("./nowhere", "cpu", "auto", "auto", 1).hello().error
