"""Ranks, average precision and nDCG against torchmetrics and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP, RetrievalNormalizedDCG

from training.evaluation import ranking
from training.evaluation.ranking import Ranks, rank, score_blocks


def ranks_of(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> Ranks:
    return rank([scores], lambda query: np.flatnonzero(right[query]), len(scores))


def cases(
    seed: int, queries: int = 20, items: int = 60, share: float = 0.1
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    scores = (1 + rng.permutation(queries * items).reshape(queries, items)) / (queries * items)  # torchmetrics drops 0
    right = rng.random((queries, items)) < share
    right[np.arange(queries), rng.integers(items, size=queries)] = True
    return scores, right


@pytest.mark.parametrize("share", [0.02, 0.1, 0.7])  # the last has more right answers than are compared one by one
def test_equal_to_torchmetrics(share: float) -> None:
    scores, right = cases(3, share=share)
    ranks = ranks_of(scores, right)
    predictions, target = torch.from_numpy(scores).float().flatten(), torch.from_numpy(right).flatten()
    indexes = torch.arange(len(scores)).repeat_interleave(scores.shape[1])
    assert ranks.precision.mean() == pytest.approx(RetrievalMAP()(predictions, target, indexes).item(), abs=1e-6)
    expected = RetrievalNormalizedDCG(top_k=10)(predictions, target.int(), indexes).item()
    assert ranks.ndcg.mean() == pytest.approx(expected, abs=1e-6)
    for k in (1, 5, 10):
        expected = RetrievalHitRate(top_k=k)(predictions, target, indexes).item()
        assert (ranks.first <= k).mean() == pytest.approx(expected, abs=1e-6)


def test_by_hand() -> None:
    ranks = ranks_of(np.asarray([[0.9, 0.8, 0.7, 0.6]]), np.asarray([[False, True, False, True]]))
    assert ranks.first.tolist() == [2]
    assert ranks.precision[0] == pytest.approx((1 / 2 + 2 / 4) / 2)
    gain = 1 / np.log2(3) + 1 / np.log2(5)
    assert ranks.ndcg[0] == pytest.approx(gain / (1 + 1 / np.log2(3)))


@pytest.mark.parametrize("few", [0, 32])
def test_a_tie_stands_behind_the_wrong_answers(monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(ranking, "_FEW", few)
    ranks = ranks_of(np.asarray([[0.5, 0.5, 0.5, 0.9]]), np.asarray([[True, False, True, False]]))
    assert ranks.first.tolist() == [3]  # two wrong ones are as good or better
    assert ranks.precision[0] == pytest.approx((1 / 3 + 2 / 4) / 2)


@pytest.mark.parametrize("few", [0, 32])
def test_one_vector_for_all_pictures_finds_none(monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(ranking, "_FEW", few)
    vectors = np.random.default_rng(0).normal(size=(2, 512)).astype(np.float32)
    text, image = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    blocks = score_blocks(np.tile(text, (1003, 1)), np.tile(image, (1003, 1)))  # the last three are rounded otherwise
    assert set(rank(blocks, lambda query: np.asarray([query]), 1003).first.tolist()) == {1003}


@given(st.integers(0, 50))
def test_order_of_items_and_scale_of_scores_do_not_matter(seed: int) -> None:
    scores, right = cases(seed, 5, 12, 0.2)
    plain = ranks_of(scores, right)
    order = np.random.default_rng(seed).permutation(12)
    for other in (ranks_of(scores[:, order], right[:, order]), ranks_of(np.exp(3 * scores) - 7, right)):
        np.testing.assert_array_equal(other.first, plain.first)
        np.testing.assert_allclose(other.precision, plain.precision)
        np.testing.assert_allclose(other.ndcg, plain.ndcg)


@given(st.integers(0, 50))
def test_a_better_score_of_a_right_answer_never_hurts(seed: int) -> None:
    scores, right = cases(seed, 5, 12, 0.2)
    before = ranks_of(scores, right)
    scores[np.arange(5), right.argmax(axis=1)] += 0.3
    after = ranks_of(scores, right)
    assert (after.first <= before.first).all()
    assert (after.precision >= before.precision - 1e-12).all()


def test_blocks_give_what_one_matrix_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    queries, items = rng.standard_normal((23, 4)).astype(np.float32), rng.standard_normal((9, 4)).astype(np.float32)
    monkeypatch.setattr(ranking, "_CELLS", 9 * 4)
    blocks = list(score_blocks(queries, items))
    assert [len(b) for b in blocks] == [4, 4, 4, 4, 4, 3]
    np.testing.assert_allclose(np.concatenate(blocks), queries @ items.T, rtol=1e-6)


def test_vectors_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        list(score_blocks(np.full((1, 2), np.nan, dtype=np.float32), np.ones((3, 2), dtype=np.float32)))
