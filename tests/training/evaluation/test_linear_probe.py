"""Linear probes: equal to a closed problem's solution, fair with few labels, clear about labels that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.evaluation.linear_probe import few, fit, probe

RNG = np.random.default_rng(3)
CENTRES = RNG.standard_normal((4, 16))


def pictures(count: int, seed: int) -> tuple[Any, list[str]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    vectors = CENTRES[labels] + 0.5 * rng.standard_normal((count, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), [f"c{n}" for n in labels]


def test_the_gradient_vanishes_where_it_stops() -> None:
    vectors, names = pictures(60, 1)
    labels = np.asarray([int(name[1]) for name in names])
    weights = fit(vectors, labels, 4, 0.01).astype(np.float64)
    odds = np.exp(vectors @ weights.T)
    error = odds / odds.sum(1, keepdims=True) - np.eye(4)[labels]
    np.testing.assert_allclose(error.T @ vectors / 60 + 0.01 * weights, 0, atol=1e-5)


def test_more_labels_are_better_and_few_already_good() -> None:
    train, names = pictures(400, 2)
    test, wanted = pictures(300, 4)

    def accuracy(labels: list[str], shots: int) -> float:
        chosen = few(labels, shots)
        assert len(chosen) == len(set(chosen)) == 4 * shots
        assert chosen == few(labels, shots)
        found = probe(train[chosen], [labels[i] for i in chosen], test, wanted)
        assert (found["fitted"], found["images"]) == (4 * shots, 300)
        return float(found["top1"])

    assert 0.5 < accuracy(names, 1) <= accuracy(names, 50)
    assert accuracy(names, 50) > 0.9
    assert accuracy(RNG.permutation(names).tolist(), 50) < 0.8
    assert sorted(few(names, None)) == list(range(400))


@pytest.mark.parametrize(
    ("labels", "shots", "said"),
    [
        (["a"] * 6, None, "1 classes"),
        (["a"] * 5 + ["b"], 2, "class 'b' has 1 pictures, fewer than 2 shots"),
        (["a", None] * 3, None, "no label"),
    ],
)
def test_labels_that_cannot_be_fitted(labels: list[Any], shots: int | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        few(labels, shots)


def test_a_new_label_is_named() -> None:
    vectors, names = pictures(6, 1)
    with pytest.raises(ValueError, match="class 'z' is not among the"):
        probe(vectors, names, vectors, ["z"] * 6)
