"""Which pictures answer a caption, and which captions a picture: a sparse boolean matrix, kept as lists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Relevance:
    """A caption is answered by its own picture, by every picture that bears the same words, and by their duplicates.

    `texts` (m,) and `owner` int64 (m,) say what is said of which of `pictures` pictures; `group` int64 (pictures,) is
    equal for duplicates. Kept by distinct text and by group, so that a caption of many pictures costs no square.
    """

    def __init__(self, texts: Sequence[str], owner: Ints, pictures: int, group: Ints | None = None) -> None:
        distinct: dict[str, int] = {}
        self._kind = np.asarray([distinct.setdefault(text, len(distinct)) for text in texts], dtype=np.int64)
        groups = np.arange(pictures) if group is None else np.unique(group, return_inverse=True)[1]
        self._group = groups.astype(np.int64)
        count = int(groups.max(initial=-1)) + 1
        said = np.unique(self._kind * max(count, 1) + self._group[owner])
        kinds, about = np.divmod(said, max(count, 1))
        self._groups_of_kind = _lists(kinds, about, len(distinct))
        self._kinds_of_group = _lists(about, kinds, count)
        self._pictures_of_group = _lists(self._group, np.arange(pictures), count)
        self._texts_of_kind = _lists(self._kind, np.arange(len(texts)), len(distinct))

    def pictures(self, text: int) -> Ints:
        """Numbers of the pictures that answer a text."""
        return _join(self._pictures_of_group, self._groups_of_kind[self._kind[text]])

    def texts(self, picture: int) -> Ints:
        """Numbers of the texts that answer a picture; empty if nothing is said of it."""
        return _join(self._texts_of_kind, self._kinds_of_group[self._group[picture]])


def _lists(keys: Ints, items: Ints, count: int) -> list[Ints]:
    order = np.argsort(keys, kind="stable")
    return np.split(items[order], np.searchsorted(keys[order], np.arange(1, count))) if count else []


def _join(lists: list[Ints], which: Ints) -> Ints:
    if len(which) == 1:
        return lists[int(which[0])]
    joined: Ints = np.concatenate([np.empty(0, dtype=np.int64), *(lists[i] for i in which)])
    return joined
