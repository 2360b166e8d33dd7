"""Metrics by hand, and the quality of the bundled model on unseen scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dual_encoder import DualEncoder
from training.evaluate import evaluate, retrieval_metrics
from training.scenes import write_scenes


def test_metrics_by_hand() -> None:
    scores = np.asarray([[0.9, 0.1, 0.2], [0.8, 0.3, 0.1], [0.1, 0.2, 0.7], [0.5, 0.6, 0.4]])
    figures = retrieval_metrics(scores, np.asarray([0, 1, 2, 2]))
    assert figures["text_to_image"]["recall@1"] == 0.5  # ranks 1, 2, 1, 3
    assert figures["text_to_image"]["median_rank"] == 1.5
    assert figures["image_to_text"]["recall@1"] == pytest.approx(0.6667)  # ranks 1, 2, 1


def test_ties_count_against_the_model() -> None:
    figures = retrieval_metrics(np.zeros((4, 4)), np.arange(4))
    assert figures["text_to_image"]["recall@1"] == 0
    assert figures["image_to_text"]["recall@1"] == 0


@pytest.mark.parametrize(
    ("split", "language", "least"), [("test", "en", 0.85), ("test", "zh", 0.80), ("unseen", "en", 0.60)]
)
def test_the_bundled_model(tmp_path: Path, encoder: DualEncoder, split: str, language: str, least: float) -> None:
    write_scenes(tmp_path, 1000, 11, split, [language])
    figures = evaluate(encoder, tmp_path, language)
    assert figures["text_to_image"]["recall@1"] >= least
    assert figures["image_to_text"]["recall@1"] >= least
