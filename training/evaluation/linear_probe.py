"""A linear probe: logistic regression on a locked model's vectors, for few labels (Radford et al. 2021, 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from training.evaluation.zero_shot import classify

if TYPE_CHECKING:
    import torch

_STRENGTHS = tuple(10.0**power for power in range(-6, 1))  # of the L2 penalty, as a share of the mean loss
_FOLDS = 3


def few(labels: Sequence[Any], shots: int | None, seed: int = 0) -> list[int]:
    """Which pictures to fit on: `shots` of each label, drawn by the seed, or all; so that no others need encoding.

    Raises ValueError: fewer than two classes, a class with fewer pictures than shots, a picture without a label.
    """
    names = np.asarray([_name(label) for label in labels])
    classes, sizes = np.unique(names, return_counts=True)
    if len(classes) < 2:
        raise ValueError(f"{len(classes)} classes to fit a linear probe on; at least 2 are needed")
    order = np.random.default_rng(seed).permutation(len(names))
    if shots is None:
        return [int(i) for i in order]
    if (least := int(sizes.min())) < shots:
        name = str(classes[sizes.argmin()])
        raise ValueError(f"class {name!r} has {least} pictures, fewer than {shots} shots")
    chosen = np.concatenate([order[names[order] == name][:shots] for name in classes])
    return [int(i) for i in np.random.default_rng(seed + 1).permutation(chosen)]


def probe(
    train: NDArray[np.float32], train_labels: Sequence[Any], test: NDArray[np.float32], test_labels: Sequence[Any]
) -> dict[str, Any]:
    """Fit on `train` (n, dim), unit vectors with a label each, and classify `test` (m, dim).

    The penalty is chosen by cross-validation on what is fitted. Gives `classify`'s figures, `penalty` and the number
    of pictures `fitted`. Raises ValueError for a label of the test that is none of those fitted on.
    """
    names = sorted({_name(label) for label in train_labels})
    numbers = {name: number for number, name in enumerate(names)}
    if unknown := [label for label in test_labels if _name(label) not in numbers]:
        raise ValueError(f"class {unknown[0]!r} is not among the {len(names)} that the linear probe is fitted on")
    labels, wanted = (
        np.asarray([numbers[_name(label)] for label in each], dtype=np.int64) for each in (train_labels, test_labels)
    )
    vectors = _with_one(train)
    penalty = _choose(vectors, labels, len(names))
    weights = fit(vectors, labels, len(names), penalty)
    return {"fitted": len(labels), "penalty": penalty, **classify(_with_one(test), wanted, weights, names)}


def fit(vectors: NDArray[np.float32], labels: NDArray[np.int64], classes: int, penalty: float) -> NDArray[np.float32]:
    """Weights float32 (classes, dim) of multinomial logistic regression on `vectors` (n, dim), by L-BFGS."""
    import torch

    x, y = torch.from_numpy(vectors).double(), torch.from_numpy(labels)
    weights = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = torch.nn.functional.cross_entropy(x @ weights.T, y) + penalty / 2 * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach().float().numpy()


def _choose(vectors: NDArray[np.float32], labels: NDArray[np.int64], classes: int) -> float:
    """The penalty with the best accuracy over the folds; of equal ones the strongest."""
    fold = np.arange(len(labels)) % _FOLDS
    right = []
    for penalty in _STRENGTHS:
        hits = 0
        for number in range(_FOLDS):
            held = fold == number
            weights = fit(vectors[~held], labels[~held], classes, penalty)
            hits += int(((vectors[held] @ weights.T).argmax(axis=1) == labels[held]).sum())
        right.append(hits)
    return max(zip(right, _STRENGTHS, strict=True))[1]


def _with_one(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """A last column of ones: the weights' last column is then the bias."""
    return np.concatenate([vectors, np.ones((len(vectors), 1), np.float32)], axis=1)


def _name(label: Any) -> str:
    if label is None or label == "":
        raise ValueError("a picture has no label")
    return str(label)
