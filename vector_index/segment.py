"""A segment: a table, its deleted rows, and the FAISS index whose row i is row i of the table."""

import logging
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vector_index import kinds, parameters, tables
from vector_index.errors import DimensionMismatch, SnapshotCorrupt
from vector_index.filters import Filter
from vector_index.kinds import Floats, Ints
from vector_index.lru_cache import LRUCache
from vector_index.manifest import SegmentStamp
from vector_index.on_device import OnDevice, fits

# A graph's step costs as much as comparing with this many vectors (3 µs and 0.04 to 0.1 µs).
GRAPH_STEP: Final = 50
# Comparing with a vector that a filter keeps costs as much as passing over this many codes in inverted lists.
CODES_A_VECTOR: Final = 12
# Gathering a vector costs as much as asking of this many rows whether they are selected (6 µs and 3 to 6 ns).
GATHERED: Final = 1_000
_REMEMBERED: Final = 16  # selections, each a bit a row; parameters

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """The rows that are kept: how many, and a bit for each row, little-endian, uint8 (rows / 8,)."""

    count: int
    bits: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, mask: npt.NDArray[np.bool_]) -> "Selection":
        """Of bool (rows,)."""
        return cls(int(mask.sum()), np.packbits(mask, bitorder="little"))

    def mask(self, rows: int) -> "pa.Array[Any]":
        """Whether each of all the rows is one of them, as Arrow has it: the same bits."""
        return pa.Array.from_buffers(pa.bool_(), rows, [None, pa.py_buffer(self.bits.data)])

    @cached_property
    def rows(self) -> Ints:
        """Their numbers, rising, int64 (count,)."""
        return np.flatnonzero(np.unpackbits(self.bits, bitorder="little"))


class Segment:
    """Consecutive rows of a collection: read-only, memory-mapped, safe to use from several threads; may be empty.

    Rows are counted from 0 in here. A deleted row keeps its number, and can still be taken; nothing finds it.
    """

    def __init__(self, snapshot: Path, stamp: SegmentStamp, dim: int) -> None:
        """Open `<name>.arrow`, `<name>.order.npy`, `<name>.faiss` and perhaps `<name>.deleted.npy` of a snapshot.

        Raises:
            SnapshotCorrupt: one cannot be read, or does not have the rows or the dim that the manifest says.
        """
        self.stamp = stamp
        path = snapshot / stamp.name
        self.table: tables.MappedTable = open_part(Path(f"{path}.arrow"), tables.MappedTable)
        self.order: Ints = open_part(Path(f"{path}.order.npy"), _map_rows)
        self.index = open_part(Path(f"{path}.faiss"), lambda file: kinds.read_index(file, _held(file, stamp, dim)))
        self.deleted = open_part(Path(f"{path}.deleted.npy"), _map_rows) if stamp.deleted else np.empty(0, np.int64)
        self._storage = kinds.storage_of(self.index)
        core = kinds.core_of(self.index)
        self._nlist: int = core.nlist if kinds.is_ivf(core) else 0
        self.limits = parameters.allowed(self.index)
        self._on_device: OnDevice | None = None
        self._selections: LRUCache[Selection] = LRUCache(_REMEMBERED)
        self._made: LRUCache[Any] = LRUCache(_REMEMBERED)

        counts = {"arrow": len(self.table), "order.npy": len(self.order), "faiss": self.index.ntotal}
        for suffix, rows in counts.items():
            if rows != stamp.rows:
                raise SnapshotCorrupt(f"{path}.{suffix}: {rows} rows, {stamp.rows} in the manifest")
        if self.index.d != dim:
            raise SnapshotCorrupt(f"{path}.faiss: dim {self.index.d}, {dim} in the manifest")
        if len(self.deleted) != stamp.deleted or np.any((self.deleted < 0) | (self.deleted >= stamp.rows)):
            raise SnapshotCorrupt(f"{path}.deleted.npy: not {stamp.deleted} rows of {stamp.rows}")
        self._live = Selection.of(self.live_mask()) if stamp.deleted else None

    def __len__(self) -> int:
        """All rows, deleted ones too."""
        return len(self.table)

    @property
    def count(self) -> int:
        """Rows that are not deleted."""
        return len(self.table) - len(self.deleted)

    def live_mask(self) -> npt.NDArray[np.bool_]:
        """Which rows are not deleted, bool (rows,)."""
        mask = np.ones(len(self.table), np.bool_)
        mask[self.deleted] = False
        return mask

    def live_column(self, name: str) -> "pa.ChunkedArray[Any]":
        """A column of the rows that are not deleted; still in the map where none is."""
        column = self.table.column(name)
        return column.filter(self._live.mask(len(self))) if self._live is not None else column

    def hold(self, device: str) -> bool:
        """Where every vector is compared, do so on this device from now on; False where it has no room for them."""
        if self.limits or not len(self):
            return True
        try:
            self._on_device = OnDevice(self._storage, device) if fits(self._storage, device) else None
        except RuntimeError:  # others took the memory meanwhile
            return False
        return self._on_device is not None

    def search(
        self,
        queries: Floats,
        k: int,
        selection: Selection | None,
        *,
        exact: bool,
        params: parameters.Parameters,
        modality: str | None,
    ) -> tuple[Floats, Ints]:
        """The nearest of the selected rows (None: all) to each of float32 (q, dim): scores and rows, (q, at most k).

        Of `params` those count that this index knows.
        """
        k = min(k, self.count if selection is None else selection.count)
        if k == 0:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        exact = exact or not self.limits
        wanted = self._parameters(k, {name: params[name] for name in params if name in self.limits}, modality)
        if selection is None or selection.count == len(self):
            if exact:
                return self._search_all(queries, k)
            return kinds.search(self.index, queries, k, self._to_faiss(wanted))
        return self._search_some(queries, k, wanted, selection, exact)

    def _search_all(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        if (held := self._on_device) is not None:
            try:
                return held.search(queries, k)
            except RuntimeError as error:  # there is no memory left, or no device
                log.warning("exact search goes on on the CPU: %s", " ".join(str(error).split())[:200])
                self._on_device = None
        return kinds.search_all(self._storage, queries, k)

    def _parameters(self, k: int, asked: parameters.Parameters, modality: str | None) -> dict[str, int]:
        defaults = self.stamp.index.parameters_for(modality)
        known = {name: min(defaults.get(name, most), most) for name, most in self.limits.items()}
        return parameters.at_depth(known, asked, k, len(self), self._nlist)

    def _to_faiss(self, wanted: dict[str, int]) -> Any:
        """Made once: that takes 25 µs, as much as half a search does, which only reads them."""
        return self._made.get(tuple(wanted.items()), lambda: parameters.to_faiss(self.index, wanted))

    def select(self, where: Filter | None) -> Selection | None:
        """Which rows a filter keeps, deleted ones left out; remembered for the filters asked for last.

        None stands for every row.
        """
        if where is None:
            return self._live
        return self._selections.get(where.key, lambda: self._selected(where))

    def _selected(self, where: Filter) -> Selection:
        mask = where.mask(self.table)
        return Selection.of(mask & self.live_mask() if len(self.deleted) else mask)

    def _search_some(
        self, queries: Floats, k: int, wanted: dict[str, int], selection: Selection, exact: bool
    ) -> tuple[Floats, Ints]:
        """Search past rows that are not selected, the farther the fewer are; or compare with all that are.

        Few rows are compared sooner than a long search is made. A search that ends with too few rows went astray among
        the others: such queries are compared with all too.
        """
        if exact or self._sooner_compared(wanted, selection):
            return self._compare(queries, k, selection)
        farther = {**wanted}
        if "efSearch" in farther:
            farther["efSearch"] = farther["efSearch"] * len(self) // selection.count
        if "nprobe" in farther:
            farther["nprobe"] = min(self._nlist, -(-farther["nprobe"] * len(self) // selection.count))
        selector = kinds.load_faiss().IDSelectorBitmap(selection.bits)
        scores, rows = kinds.search(self.index, queries, k, parameters.to_faiss(self.index, farther, selector))
        astray = np.flatnonzero(rows[:, -1] < 0)
        if len(astray):
            scores[astray], rows[astray] = self._compare(queries[astray], k, selection)
        return scores, rows

    def _sooner_compared(self, wanted: dict[str, int], selection: Selection) -> bool:
        if "efSearch" in wanted:
            return wanted["efSearch"] * len(self) // selection.count * GRAPH_STEP >= selection.count
        if "nprobe" in wanted:
            lists = min(self._nlist, wanted["nprobe"] * len(self) // selection.count)
            return selection.count * CODES_A_VECTOR <= len(self) * lists // self._nlist
        return True

    def _compare(self, queries: Floats, k: int, selection: Selection) -> tuple[Floats, Ints]:
        """Compare every row selected; few are gathered, many found by passing over the others."""
        if selection.count * GATHERED <= len(self):
            return kinds.search_rows(self._storage, queries, k, selection.rows)
        selector = kinds.load_faiss().IDSelectorBitmap(selection.bits)
        return kinds.search_all(self._storage, queries, k, selector)

    def row_of(self, id: str) -> int | None:
        """The row that has this id and is not deleted, by binary search through the map."""
        place = bisect_left(self.order, id, key=self._id_at)
        if place == len(self.order) or self._id_at(row := int(self.order[place])) != id:
            return None
        return None if self.is_deleted(row) else row

    def is_deleted(self, row: int) -> bool:
        """Whether a row is no longer there."""
        place = int(np.searchsorted(self.deleted, row))
        return place < len(self.deleted) and int(self.deleted[place]) == row

    def vectors(self, rows: Ints) -> Floats:
        """The vectors of rows as stored, float32 (n, dim), deleted ones too."""
        reconstructed: Floats = self._storage.reconstruct_batch(rows)
        return reconstructed

    def _id_at(self, row: int) -> str:
        value: str = self.table.value("id", int(row))
        return value


def check_vectors(vectors: npt.NDArray[Any], dim: int) -> Floats:
    """Return vectors as contiguous float32 (n, dim), without a copy if they are that already.

    Raises:
        DimensionMismatch: they are of another shape.
        ValueError: NaN or infinity in one of them, or not numbers at all.
    """
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if np.ndim(vectors) != 2 or array.shape[1] != dim:
        raise DimensionMismatch(f"vectors of shape {np.shape(vectors)}; this index takes (n, {dim})")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise ValueError(f"vector {bad[0]} has NaN or infinity in it ({len(bad)} of {len(array)} have)")
    return array


def _held(path: Path, stamp: SegmentStamp, dim: int) -> int:
    """Bytes of fast-scan lists: what comes before the vectors that refine. Other lists stay in the map."""
    is_copied = "fs" in stamp.index.kind and stamp.index.kind.endswith("Refine(SQfp16)")
    return max(0, path.stat().st_size - 2 * dim * stamp.rows) if is_copied else 0


def _map_rows(path: Path) -> Ints:
    rows: Ints = np.load(path, mmap_mode="r", allow_pickle=False)
    if rows.ndim != 1 or rows.dtype != np.int64:
        raise ValueError(f"{rows.dtype} of shape {rows.shape}, not a list of int64")
    return rows


def open_part(path: Path, opener: Any) -> Any:
    """Call `opener(path)`, turning the several errors of the libraries into one that names the file."""
    try:
        return opener(path)
    except Exception as error:  # numpy's parser of headers alone has several kinds, TokenError among them
        raise SnapshotCorrupt(f"{path}: {error}") from error
