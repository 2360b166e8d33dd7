"""Where a model loses which thing is on which side: in its image tower, in its text tower, or between them.

Scenes of two things of different colours, one left of or above the other. `told apart`: from the vectors alone a linear
probe says which of the two colours is on the left (or on top); chance is one half. `cosine`: of a caption and the same
with its things exchanged, of a picture and that of such a scene. `passed`: pictures nearer to the true caption.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.common import parser
from training.scenes import COLOURS, Scene, Thing, describe, draw, scenes

_FITTED, _ASKED = 3000, 500
_PENALTY = 1e-3
_ENDLESS = 10**9
Vectors = NDArray[np.float32]


def main() -> None:
    from dual_encoder import load_encoder

    options = parser(__doc__)
    options.add_argument("--model", default="tiny", help="a model reference")
    options.add_argument("--fitted", type=int, default=_FITTED, help="scenes that the probes are fitted on, an axis")
    given = options.parse_args()
    encoder = load_encoder(given.model)
    seen = {**report.conditions(), "model": given.model, "fingerprint": encoder.fingerprint, "fitted": given.fitted}
    rows = [look(encoder, axis, given.fitted, given.seed) for axis in ("left/right", "above/below")]
    report.save("relations", seen, rows, given.out)


def look(encoder: Any, axis: str, fitted: int, seed: int) -> dict[str, Any]:
    """One axis' figures."""
    train, test = two_things(axis, "train", fitted, seed), two_things(axis, "test", _ASKED, seed)
    learned, asked = [scene for scene, _ in train], [scene for scene, _ in test]
    pictures = encode(encoder, test)
    captions = encoder.encode_texts([describe(scene, "en")[0] for scene in asked])
    exchanged = encoder.encode_texts([describe(turned(scene), "en")[0] for scene in asked])
    others = encode(encoder, [(turned(scene), placement) for scene, placement in test])
    learned_captions = encoder.encode_texts([describe(scene, "en")[0] for scene in learned])
    return {
        "axis": axis,
        "pictures told apart": told_apart(encode(encoder, train), learned, pictures, asked),
        "captions told apart": told_apart(learned_captions, learned, captions, asked),
        "cosine of pictures": cosine(pictures, others),
        "cosine of captions": cosine(captions, exchanged),
        "passed": float(np.mean((pictures * captions).sum(1) > (pictures * exchanged).sum(1))),
    }


def two_things(axis: str, split: Any, count: int, seed: int) -> list[tuple[Scene, int]]:
    """Scenes of one axis with what places them."""
    places = ("left of", "right of") if axis == "left/right" else ("above", "below")

    def fitting() -> Iterator[tuple[Scene, int]]:
        for scene, placement in scenes(_ENDLESS, seed, split):
            if scene.place in places and scene.things[0].colour != scene.things[1].colour:
                yield scene, placement

    return list(islice(fitting(), count))


def turned(scene: Scene) -> Scene:
    return replace(scene, things=scene.things[::-1])


def in_order(scene: Scene) -> tuple[Thing, Thing]:
    """The thing on the left or on top, and the other."""
    one, other = scene.things
    return (one, other) if scene.place in ("left of", "above") else (other, one)


def encode(encoder: Any, drawn: Sequence[tuple[Scene, int]], batch: int = 64) -> Vectors:
    parts = [
        encoder.encode_images([draw(*each) for each in drawn[start : start + batch]])
        for start in range(0, len(drawn), batch)
    ]
    return np.concatenate(parts)


def told_apart(train: Vectors, learned: Sequence[Scene], test: Vectors, asked: Sequence[Scene]) -> float:
    """How often logistic regression on (n, dim) vectors finds the first thing's colour likelier than the other's."""
    from training.evaluation.linear_probe import fit

    numbers = {colour: number for number, colour in enumerate(COLOURS)}
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    x, y = (np.pad((part - mean) / deviation, ((0, 0), (0, 1)), constant_values=1) for part in (train, test))
    labels = np.asarray([numbers[in_order(scene)[0].colour] for scene in learned], dtype=np.int64)
    scores = y @ fit(x, labels, len(numbers), _PENALTY).T
    first, other = (np.asarray([numbers[in_order(scene)[i].colour] for scene in asked]) for i in range(2))
    row = np.arange(len(asked))
    return float(np.mean(scores[row, first] > scores[row, other]))


def cosine(a: Vectors, b: Vectors) -> float:
    return round(float((a * b).sum(1).mean()), 4)


if __name__ == "__main__":
    main()
