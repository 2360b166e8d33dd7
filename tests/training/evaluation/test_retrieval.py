"""Metrics by hand, and the quality of the bundled model on unseen scenes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dual_encoder import DualEncoder
from training.evaluation import evaluate, retrieval_metrics
from training.scenes import write_scenes


def test_metrics_by_hand() -> None:
    scores = np.asarray([[0.9, 0.1, 0.2], [0.8, 0.3, 0.1], [0.1, 0.2, 0.7], [0.5, 0.6, 0.4]])
    figures = retrieval_metrics(scores, np.asarray([0, 1, 2, 2]))
    assert figures["text_to_image"]["recall@1"] == 0.5  # ranks 1, 2, 1, 3
    assert figures["text_to_image"]["median_rank"] == 1.5
    assert figures["text_to_image"]["map"] == round((1 + 1 / 2 + 1 + 1 / 3) / 4, 4)
    assert figures["image_to_text"]["recall@1"] == pytest.approx(0.6667)  # ranks 1, 2, 1
    assert figures["image_to_text"]["map"] == round((1 + 1 / 2 + (1 + 1) / 2) / 3, 4)


def test_ties_count_against_the_model() -> None:
    figures = retrieval_metrics(np.zeros((4, 4)), np.arange(4))
    assert figures["text_to_image"]["recall@1"] == 0
    assert figures["image_to_text"]["recall@1"] == 0


def test_duplicates_are_no_mistakes() -> None:
    scores = np.asarray([[0.8, 0.9], [0.7, 0.6]])
    owner = np.asarray([0, 1])
    assert retrieval_metrics(scores, owner)["text_to_image"]["recall@1"] == 0
    assert retrieval_metrics(scores, owner, texts=["a dog", "a dog"])["text_to_image"]["recall@1"] == 1
    grouped = retrieval_metrics(scores, owner, group=np.asarray([5, 5]))
    assert grouped["text_to_image"]["recall@1"] == grouped["image_to_text"]["recall@1"] == 1


def test_a_picture_without_captions_is_a_distractor_and_no_query() -> None:
    figures = retrieval_metrics(np.asarray([[0.5, 0.9]]), np.asarray([0]))
    assert figures["text_to_image"]["median_rank"] == 2
    assert figures["image_to_text"]["recall@1"] == 1


def test_figures_lie_in_their_intervals_and_nan_is_refused() -> None:
    scores = np.random.default_rng(0).random((60, 60)) + np.eye(60) * 0.5
    figures = retrieval_metrics(scores, np.arange(60))
    for way in ("text_to_image", "image_to_text"):
        for name, (low, high) in figures["intervals"][way].items():
            assert low <= figures[way][name] <= high
        low, high = figures["intervals"][way]["recall@1"]
        assert low < high
    with pytest.raises(ValueError, match="not finite"):
        retrieval_metrics(np.full((2, 2), np.nan), np.arange(2))


@pytest.mark.parametrize(("split", "least"), [("test", {"en": 0.85, "zh": 0.80}), ("unseen", {"en": 0.60, "zh": 0.60})])
def test_the_bundled_model(tmp_path: Path, encoder: DualEncoder, split: str, least: dict[str, float]) -> None:
    write_scenes(tmp_path, 1000, 11, split)
    for row in evaluate(encoder, tmp_path)["by"]["language"]:
        assert row["text_to_image"]["recall@1"] >= least[row["value"]]
        assert row["image_to_text"]["recall@1"] >= least[row["value"]]


def test_by_language_is_as_if_there_were_no_other(scenes: Path, encoder: DualEncoder) -> None:
    both = evaluate(encoder, scenes, by=["place"])
    assert [row["value"] for row in both["by"]["language"]] == ["en", "zh"]
    for row in both["by"]["language"]:
        alone = evaluate(encoder, scenes, row["value"])
        assert alone["by"] == {}
        for key in ("text_to_image", "image_to_text", "intervals"):
            assert row[key] == alone[key]
    places = both["by"]["place"]
    assert sum(row["images"] for row in places) == 60
    weighted = sum(row["texts"] * row["text_to_image"]["map"] for row in places) / both["texts"]
    assert weighted == pytest.approx(both["text_to_image"]["map"], abs=1e-3)


def test_the_same_picture_twice_costs_nothing_when_grouped(tmp_path: Path, scenes: Path, encoder: DualEncoder) -> None:
    shutil.copytree(scenes.parent / "images", tmp_path / "images")
    first = json.loads(scenes.read_text("utf-8").splitlines()[0])
    once, again = (
        {**first, "caption": first["caption"][:3], "language": "en"},
        {**first, "caption": first["caption"][3:], "language": "zh"},
    )

    def recall(*rows: dict[str, object]) -> float:
        (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return float(evaluate(encoder, tmp_path)["text_to_image"]["recall@1"])

    assert recall(once, again) == 0  # a tie with itself
    assert recall({**once, "group": "a"}, {**again, "group": "a"}) == 1
