"""Texts are cut into the cheapest batches; a runtime sees few shapes; nothing of that changes a vector."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dual_encoder import DualEncoder, load_encoder
from dual_encoder.ragged import _CALL, plan


@given(st.lists(st.integers(1, 77), min_size=1, max_size=9).map(sorted), st.integers(1, 5))
def test_the_plan_is_the_cheapest_of_all(lengths: list[int], most: int) -> None:
    def cost(cuts: tuple[int, ...]) -> float:
        runs = list(itertools.pairwise((0, *cuts, len(lengths))))
        if any(stop - start > most for start, stop in runs):
            return float("inf")
        return sum(_CALL + (stop - start) * lengths[stop - 1] for start, stop in runs)

    runs = plan(lengths, most)
    assert [place for start, stop in runs for place in range(start, stop)] == list(range(len(lengths)))
    inner = range(1, len(lengths))
    every = (cuts for count in range(len(lengths)) for cuts in itertools.combinations(inner, count))
    assert cost(tuple(stop for _, stop in runs[:-1])) == min(map(cost, every))


def test_long_texts_do_not_lengthen_short_ones() -> None:
    assert plan([5] * 20 + [70], 32) == [(0, 20), (20, 21)]
    assert plan([5, 6, 7], 32) == [(0, 3)]
    assert plan([], 32) == []


def test_ragged_rows_give_what_each_text_gives_alone(encoder: DualEncoder) -> None:
    texts = [" ".join(["a red star", "红色"][i % 2] for _ in range(1 + i % 13)) for i in range(70)]
    alone = np.concatenate([encoder.encode_texts([text]) for text in texts])
    together = encoder.encode_texts(texts)
    assert (alone * together).sum(axis=1).min() > 0.999


def test_the_runtime_sees_few_shapes_and_takes_any() -> None:
    encoder = load_encoder("tiny", lazy=True)
    runtime = encoder.runtime
    shapes = {runtime.text_shape(n, length) for n in range(1, 33) for length in range(1, 78)}  # type: ignore[attr-defined]
    assert len(shapes) <= 15 * 14
    for n in range(1, 33):
        for length in range(1, 78):
            count, padded = runtime.text_shape(n, length)  # type: ignore[attr-defined]
            assert n <= count <= n + max(1, n // 4)
            assert length <= padded <= 77
    pixels = np.zeros((13, 3, *encoder.image_size), np.float32)
    assert runtime.encode_pixels(pixels).shape == (13, encoder.dim)


def test_streams_encode_at_once() -> None:
    from concurrent.futures import ThreadPoolExecutor

    encoder = load_encoder("tiny", streams=2, threads=2)
    texts = [f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("star", "ring", "cross")]
    wanted = encoder.encode_texts(texts)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: encoder.encode_texts(texts), range(40)):
            np.testing.assert_allclose(found, wanted, atol=1e-5)
