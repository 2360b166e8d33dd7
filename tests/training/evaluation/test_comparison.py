"""Paired comparison: the exact test, the interval and the sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from training.evaluation.comparison import compare, mcnemar
from training.evaluation.gallery import Gallery, Vectors
from training.evaluation.ranking import Ranks
from training.evaluation.retrieval import Asked, ask
from training.pairs import Pair


@pytest.mark.parametrize(("a", "b"), [(0, 0), (1, 0), (3, 9), (9, 3), (5, 5), (700, 800), (0, 3000)])
def test_mcnemar_is_the_exact_binomial_test(a: int, b: int) -> None:
    expected = binomtest(a, a + b).pvalue if a + b else 1.0
    assert mcnemar(a, b) == pytest.approx(expected, rel=1e-8, abs=1e-300)


def asked(first: list[int], picture: list[int]) -> dict[str, Asked]:
    ranks = Ranks(np.asarray(first), 1 / np.asarray(first), np.asarray(first) * 0.0)
    return {way: Asked(ranks, np.asarray(picture)) for way in ("text_to_image", "image_to_text")}


def test_a_model_equals_itself() -> None:
    one = asked([1, 2, 1, 7], [0, 1, 2, 3])
    part = compare(one, one, ("a", "b"))["text_to_image"]
    assert part["difference"]["recall@1"] == 0
    assert part["p"] == 1
    assert not part["significant"]
    assert "no significant difference" in part["verdict"]


def test_the_better_one_is_named_either_way() -> None:
    pictures = list(range(100))
    good, bad = asked([1] * 90 + [2] * 10, pictures), asked([1] * 60 + [2] * 40, pictures)
    result = compare(bad, good, ("bad", "good"))
    part = result["text_to_image"]
    assert result["models"] == ["bad", "good"]
    assert (part["difference"]["recall@1"], part["only_a"], part["only_b"]) == (0.3, 0, 30)
    assert part["intervals"]["recall@1"][0] > 0.2
    assert "good is significantly better than bad, by 30.0 points" in part["verdict"]
    swapped = compare(good, bad, ("good", "bad"))["text_to_image"]
    assert "good is significantly better than bad, by 30.0 points" in swapped["verdict"]
    assert swapped["intervals"]["recall@1"] == [-part["intervals"]["recall@1"][1], -part["intervals"]["recall@1"][0]]


def test_models_of_different_dimension_are_compared_by_rank() -> None:
    rng = np.random.default_rng(0)
    pairs = [Pair(Path(f"{i}.png"), (), ()) for i in range(30)]
    gallery = Gallery("d", pairs, [str(i) for i in range(30)], ["en"] * 30, np.arange(30), np.arange(30))

    def model(dim: int, noise: float) -> dict[str, Asked]:
        images = rng.standard_normal((30, dim)).astype(np.float32)
        return ask(gallery, Vectors(images, images + noise * rng.standard_normal((30, dim)).astype(np.float32)))

    part = compare(model(4, 3.0), model(64, 0.1), ("small", "large"))["image_to_text"]
    assert "large is significantly better than small" in part["verdict"]


def test_many_captions_of_few_pictures_do_not_make_it_significant() -> None:
    # B gains on all 20 captions of two pictures and loses those of one: the test alone would be convinced.
    pictures = np.repeat(np.arange(6), 20).tolist()
    a = asked([2] * 40 + [1] * 20 + [1] * 60, pictures)
    b = asked([1] * 40 + [2] * 20 + [1] * 60, pictures)
    part = compare(a, b, ("a", "b"))["text_to_image"]
    assert part["p"] < 0.05
    assert not part["significant"]
