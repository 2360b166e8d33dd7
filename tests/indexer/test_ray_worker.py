"""A worker without Ray: what it answers does not depend on what it still holds."""

from __future__ import annotations

import pickle
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpus import Record, open_source
from dual_encoder import DualEncoder
from indexer.engine import Job, LocalEngine, arithmetic_of
from indexer.ledger import Ledger
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
    assert busy.hello()[1:5] == (encoder.fingerprint, encoder.dim, arithmetic_of(encoder), encoder.batch)
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


def test_captions_are_encoded_in_the_batches_of_the_local_engine(
    packed: bytes, encoder: DualEncoder, tmp_path: Path
) -> None:
    class Counting:
        def __init__(self) -> None:
            self.texts: list[int] = []

        def __getattr__(self, name: str) -> object:
            return getattr(encoder, name)

        def encode_texts(self, texts: list[str]) -> Any:
            self.texts.append(len(texts))
            return encoder.encode_texts(texts)

    there, here, texts = worker(), Counting(), [f"{number} stars" for number in range(600)]
    there._encoder = counting = Counting()
    assert len(there.encode(0, packed, JOB, [], texts).text_vectors) == 600
    record = Record("a.png", pickle.loads(packed)[0].read, captions=tuple(texts))
    with closing(Ledger(tmp_path)) as ledger:
        list(LocalEngine(here).parts(iter([record]), ledger, JOB, lambda _: None))  # type: ignore[arg-type]
    assert counting.texts == here.texts == [512, 88]


def test_a_model_that_is_not_there() -> None:
    assert "no such directory" in Worker("./nowhere", "cpu", "auto", "auto", 1).hello().error
