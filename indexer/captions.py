"""Which pictures each caption belongs to, as pictures come, change and go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexer.ledger import text_digest
from vector_index import Collection, SnapshotWriter, UnknownId

_BATCH = 1024


class CaptionChanges:
    """Gathers what is said of pictures and no longer said; `write` changes the captions of the base accordingly.

    Memory holds the captions that change.
    """

    def __init__(self, base: Collection) -> None:
        self._base = base
        self._said: dict[str, dict[str, bool]] = {}  # caption -> picture -> whether it is said of it now

    def say(self, captions: Iterable[str], image_id: str) -> None:
        for text in captions:
            self._said.setdefault(text, {})[image_id] = True

    def unsay(self, captions: Iterable[str], image_id: str) -> None:
        for text in captions:
            self._said.setdefault(text, {})[image_id] = False

    def write(self, writer: SnapshotWriter, encode: Callable[[list[str]], NDArray[np.float32]]) -> None:
        """Remove captions of no picture, encode new ones, and write anew those of other pictures than before."""
        changes = iter(self._said.items())
        while batch := list(islice(changes, _BATCH)):
            kept: list[tuple[str, list[str], int | None]] = []
            for text, said in batch:
                row = self._row_of(text)
                before = [] if row is None else self._base.take([row], ["image_ids"])["image_ids"][0].as_py()
                after = list(_merged(before, said))
                if after == before:
                    continue
                if row is not None:
                    writer.remove_texts([row])
                if after:
                    kept.append((text, after, row))
            if kept:
                self._add(writer, kept, encode)

    def _add(
        self,
        writer: SnapshotWriter,
        kept: list[tuple[str, list[str], int | None]],
        encode: Callable[[list[str]], NDArray[np.float32]],
    ) -> None:
        fresh = [text for text, _, row in kept if row is None]
        vectors = np.empty((len(kept), self._base.dim), np.float32)
        if fresh:
            vectors[[row is None for _, _, row in kept]] = encode(fresh)
        known = [row for _, _, row in kept if row is not None]
        vectors[[row is not None for _, _, row in kept]] = self._base.vectors(known)
        columns = {
            "id": pa.array([text_digest(text).hex() for text, _, _ in kept], pa.string()),
            "text": pa.array([text for text, _, _ in kept], pa.string()),
            "image_ids": pa.array([ids for _, ids, _ in kept], pa.list_(pa.string())),
        }
        writer.add_texts(pa.RecordBatch.from_pydict(columns), vectors)

    def _row_of(self, text: str) -> int | None:
        try:
            return self._base.row_of(text_digest(text).hex())
        except UnknownId:
            return None


def _merged(before: list[str], said: dict[str, bool]) -> Iterator[str]:
    yield from (id for id in before if said.get(id, True))
    yield from (id for id, is_said in said.items() if is_said and id not in before)
