"""Linear probes: equal to a closed problem's solution, fair with few labels, clear about labels that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.evaluation.linear_probe import fit, probe

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
    one, many = (probe(train, names, test, wanted, shots=shots) for shots in (1, 50))
    assert one["fitted"] == 4
    assert many["fitted"] == 200
    assert 0.5 < one["top1"] <= many["top1"]
    assert many["top1"] > 0.9
    assert probe(train, names, test, wanted, shots=1) == one
    shuffled = RNG.permutation(names).tolist()
    assert probe(train, shuffled, test, wanted, shots=50)["top1"] < 0.8


@pytest.mark.parametrize(
    ("train", "test", "shots", "said"),
    [
        (["a"] * 6, ["a"] * 6, None, "1 classes"),
        (["a", "b"] * 3, ["a", "z"] * 3, None, "class 'z' is not among the 2"),
        (["a"] * 5 + ["b"], ["a"] * 6, 2, "class 'b' has 1 pictures, fewer than 2 shots"),
        (["a", None] * 3, ["a"] * 6, None, "no label"),
    ],
)
def test_labels_that_do_not_fit(train: list[Any], test: list[Any], shots: int | None, said: str) -> None:
    vectors = pictures(6, 1)[0]
    with pytest.raises(ValueError, match=said):
        probe(vectors, train, vectors, test, shots=shots)
