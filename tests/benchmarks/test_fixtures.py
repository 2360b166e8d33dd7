"""What the benchmarks load: distinct, the same every time, as long and as large as said."""

from __future__ import annotations

import io
import statistics

from PIL import Image

from benchmarks.fixtures import any_length, captions, clustered, jpegs, marked


def test_captions_are_distinct_and_the_same_every_time() -> None:
    texts = captions(1000, seed=3)
    assert len(set(texts)) == len(texts) == 1000
    assert texts == captions(1000, seed=3)
    assert texts != captions(1000, seed=4)


def test_captions_are_as_long_as_captions() -> None:
    lengths = [len(text.split()) for text in captions(1000)]
    assert 9 <= statistics.median(lengths) <= 12
    assert min(lengths) >= 2
    assert max(lengths) > 20


def test_texts_of_any_length_spread_over_all_lengths() -> None:
    texts = any_length(1000, seed=3)
    lengths = [len(text.split()) for text in texts]
    assert len(set(texts)) == 1000
    assert texts == any_length(1000, seed=3)
    assert sum(length <= 3 for length in lengths) > 100
    assert sum(length > 77 for length in lengths) > 10


def test_vectors_have_unit_length() -> None:
    vectors = clustered(50, 16)
    assert vectors.shape == (50, 16)
    assert abs((vectors**2).sum(axis=1) - 1).max() < 1e-5


def test_marked_pictures_differ_in_bytes_and_not_in_pixels() -> None:
    (drawn,) = jpegs(1, 0.02)
    files = marked([drawn], 3)
    assert len({*files, drawn}) == 4
    assert {Image.open(io.BytesIO(file)).tobytes() for file in files} == {Image.open(io.BytesIO(drawn)).tobytes()}
