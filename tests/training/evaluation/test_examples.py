"""Best and worst queries, and the scores of matched and unmatched pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.evaluation.examples import examples, score_shares
from training.evaluation.gallery import Gallery, Vectors
from training.evaluation.retrieval import Retrieved, ask
from training.pairs import Pair


@pytest.fixture
def found(tmp_path_factory: pytest.TempPathFactory) -> Retrieved:
    """Eight pictures with two captions each; those of picture 3 are about picture 4, those of 0 are exact."""
    rng = np.random.default_rng(0)
    images = np.eye(8, dtype=np.float32)
    owner = np.repeat(np.arange(8), 2)
    texts = images[owner] + rng.normal(0, 0.1, (16, 8)).astype(np.float32)
    texts[:2] = images[0]
    texts[6:8] = images[4] + 0.1 * images[5]
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    pairs = [Pair(tmp_path_factory.getbasetemp() / f"{i}.png", (), ()) for i in range(8)]
    gallery = Gallery("d", pairs, [f"t{i}" for i in range(16)], ["en"] * 16, owner, np.arange(8))
    vectors = Vectors(images, texts)
    return Retrieved(gallery, vectors, ask(gallery, vectors))


def test_best_and_worst(found: Retrieved) -> None:
    best, worst = examples(found, "text_to_image")
    assert best[0].picture == 0
    assert [hit[0] for hit in best[0].hits][:1] == [0]
    assert best[0].hits[0][2]
    assert (worst[0].picture, worst[0].rank > 2) == (3, True)
    assert worst[0].hits[0] == (4, pytest.approx(0.995, abs=0.01), False)
    assert len({e.picture for e in worst}) == len(worst) == 5
    best, worst = examples(found, "image_to_text")
    assert worst[0].picture == 3
    assert all(right for _, _, right in best[0].hits[:2])


def test_shares_of_scores(found: Retrieved) -> None:
    matched, unmatched, low, high = score_shares(found)
    assert sum(matched) == pytest.approx(1)
    assert sum(unmatched) == pytest.approx(1)
    centres = np.linspace(low, high, len(matched))
    assert np.dot(matched, centres) > 0.7 > 0.4 > np.dot(unmatched, centres)


def test_a_gallery_of_one_picture() -> None:
    gallery = Gallery("d", [Pair(Path("x"), (), ())], ["a"], ["en"], np.asarray([0]), np.asarray([0]))
    vectors = Vectors(np.ones((1, 1), dtype=np.float32), np.ones((1, 1), dtype=np.float32))
    found = Retrieved(gallery, vectors, ask(gallery, vectors))
    assert examples(found, "text_to_image")[0][0].rank == 1
    assert sum(score_shares(found)[1]) == 0  # there is no unmatched pair
