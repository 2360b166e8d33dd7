"""Zero-shot classification: a class is the mean of its names in many sentences (Radford et al. 2021, 3.1.4)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dual_encoder import DualEncoder
from training.evaluation.bootstrap import mean_intervals
from training.evaluation.ranking import TIE
from training.evaluation.templates import templates

_CONFUSIONS = 10
_TEXTS = 4096  # encoded at a time


@dataclass(frozen=True)
class Task:
    """Classes with their names, sentences to put them in, and the true class of each picture, int64 (pictures,)."""

    classes: dict[str, list[str]]
    sentences: list[str]
    labels: NDArray[np.int64]

    def run(self, encoder: DualEncoder, images: NDArray[np.float32]) -> dict[str, Any]:
        """Figures for pictures with vectors `images` (pictures, dim)."""
        weights = classifier(encoder, list(self.classes.values()), self.sentences)
        return {"templates": len(self.sentences), **classify(images, self.labels, weights, list(self.classes))}


def read_task(classes: Path, choice: str | None, labels: Sequence[Any], column: str) -> Task:
    """From a file of classes, a choice of templates and the values of the label column. Raises ValueError."""
    named = read_classes(classes)
    sentences = templates(choice, [name for names in named.values() for name in names])
    return Task(named, sentences, label_numbers(labels, named, column))


def read_classes(path: Path) -> dict[str, list[str]]:
    """Class -> its names, from a text file (one a line) or JSON `{class: [names]}`. Raises ValueError."""
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text") from None
    if path.suffix == ".json":
        classes = _from_json(text, path)
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if twice := [name for name, count in Counter(lines).items() if count > 1]:
            raise ValueError(f"{path}: class {twice[0]!r} stands there twice")
        classes = {name: [name] for name in lines}
    if len(classes) < 2:
        raise ValueError(f"{path}: {len(classes)} classes in it; at least 2 are needed")
    return classes


def _from_json(text: str, path: Path) -> dict[str, list[str]]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: not an object {{class: [names]}}")
    classes = {}
    for label, names in value.items():
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not names or not all(isinstance(n, str) and n.strip() for n in names):
            raise ValueError(f"{path}: class {label!r} needs a name or a list of names")
        classes[label] = names
    return classes


def classifier(encoder: DualEncoder, classes: Sequence[Sequence[str]], sentences: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors of the classes, float32 (classes, dim): each the mean over all its names in all sentences.

    With one name a class it equals open_clip's `build_zero_shot_classifier`.
    """
    texts = [s.replace("{}", name) for names in classes for name in names for s in sentences]
    vectors = np.concatenate([encoder.encode_texts(texts[i : i + _TEXTS]) for i in range(0, len(texts), _TEXTS)])
    starts = np.cumsum([0, *(len(names) * len(sentences) for names in classes)])
    means = np.stack([vectors[a:b].mean(axis=0) for a, b in pairwise(starts)])
    unit: NDArray[np.float32] = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return unit


def label_numbers(labels: Sequence[Any], classes: dict[str, list[str]], column: str) -> NDArray[np.int64]:
    """Values of the label column -> numbers of classes, int64 (pictures,): a class, or a name that no other class has.

    Raises ValueError naming the row.
    """
    shared = Counter(name for names in classes.values() for name in set(names))
    numbers = {n: number for number, names in enumerate(classes.values()) for n in names if shared[n] == 1}
    numbers |= {label: number for number, label in enumerate(classes)}
    found = []
    for row, label in enumerate(labels, 1):
        if label is None or label == "":
            raise ValueError(f"row {row} has no {column!r}")
        if str(label) not in numbers:
            raise ValueError(f"row {row}: {column} {label!r} is not one of the {len(classes)} classes")
        found.append(numbers[str(label)])
    return np.asarray(found, dtype=np.int64)


def classify(
    images: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float32], names: Sequence[str]
) -> dict[str, Any]:
    """Figures of pictures (n, dim) with labels int64 (n,) under class vectors (classes, dim); ties count against it.

    Top-1 and top-5 accuracy with 95 % intervals, the mean over classes of each one's recall, every class's own recall,
    and the confusions that happen most.
    """
    scores = images @ weights.T
    own = scores[np.arange(len(labels)), labels]
    rank = len(names) - (scores < own[:, None] - TIE).sum(axis=1)
    hits = np.stack([rank <= 1, rank <= 5], axis=1).astype(np.float64)
    top1, top5 = mean_intervals(hits, np.arange(len(labels)))
    others = scores.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    guess = np.where(rank <= 1, labels, others.argmax(axis=1))
    sizes = np.bincount(labels, minlength=len(names))
    right = np.bincount(labels[rank <= 1], minlength=len(names))
    present = sizes > 0
    pairs = Counter(zip(labels[guess != labels].tolist(), guess[guess != labels].tolist(), strict=True))
    return {
        "images": len(labels),
        "classes": len(names),
        "top1": round(float(hits[:, 0].mean()), 4),
        "top5": round(float(hits[:, 1].mean()), 4),
        "mean_class_recall": round(float((right[present] / sizes[present]).mean()), 4),
        "intervals": {"top1": list(top1), "top5": list(top5)},
        "by_class": [
            {"class": names[i], "images": int(sizes[i]), "recall": round(float(right[i] / sizes[i]), 4)}
            for i in np.flatnonzero(present).tolist()
        ],
        "confusions": [
            {"class": names[a], "taken_for": names[b], "count": count, "share": round(count / int(sizes[a]), 4)}
            for (a, b), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:_CONFUSIONS]
        ],
    }
