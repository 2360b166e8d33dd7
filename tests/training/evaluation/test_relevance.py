"""Which captions and pictures answer each other."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.relevance import Relevance


def test_the_same_words_answer_both_pictures_and_duplicates_share_captions() -> None:
    # pictures 0 and 1 bear "a dog"; 2 and 3 are duplicates
    texts = ["a dog", "a brown dog", "a dog", "a cat", "a sleeping cat"]
    relevance = Relevance(texts, np.asarray([0, 0, 1, 2, 3]), 5, np.asarray([0, 1, 7, 7, 4]))
    assert [relevance.pictures(t).tolist() for t in range(5)] == [[0, 1], [0], [0, 1], [2, 3], [2, 3]]
    assert [relevance.texts(i).tolist() for i in range(5)] == [[0, 2, 1], [0, 2], [3, 4], [3, 4], []]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4)), min_size=1, max_size=12),
    st.lists(st.integers(0, 2), min_size=5, max_size=5),
)
def test_it_is_the_matrix_its_definition_gives(said: list[tuple[str, int]], groups: list[int]) -> None:
    texts, owner = [text for text, _ in said], [picture for _, picture in said]
    relevance = Relevance(texts, np.asarray(owner), 5, np.asarray(groups))
    expected = np.zeros((len(said), 5), dtype=bool)
    for t, text in enumerate(texts):
        bearers = {groups[o] for other, o in said if other == text}
        expected[t] = [groups[i] in bearers for i in range(5)]
    for t in range(len(said)):
        assert sorted(relevance.pictures(t).tolist()) == np.flatnonzero(expected[t]).tolist()
    for i in range(5):
        assert sorted(relevance.texts(i).tolist()) == np.flatnonzero(expected[:, i]).tolist()
