"""A collection: a table and the FAISS index whose row i is row i of the table."""

import threading
from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vector_index import kinds, parameters, tables
from vector_index.errors import DimensionMismatch, SnapshotCorrupt, UnknownId
from vector_index.filters import Filter
from vector_index.manifest import CollectionStamp

# A graph's step costs as much as comparing with this many vectors (3 µs and 0.04 to 0.1 µs).
GRAPH_STEP: Final = 50
# Comparing with a vector that a filter keeps costs as much as passing over this many codes in inverted lists.
CODES_A_VECTOR: Final = 12
# Gathering a vector costs as much as asking of this many rows whether they are selected (6 µs and 3 to 6 ns).
GATHERED: Final = 1_000
_REMEMBERED: Final = 16  # selections, each a bit a row


@dataclass(frozen=True)
class Selection:
    """The rows that a filter keeps: how many, and a bit for each row, little-endian, uint8 (rows / 8,)."""

    count: int
    bits: npt.NDArray[np.uint8]

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """Their numbers, rising, int64 (count,)."""
        return np.flatnonzero(np.unpackbits(self.bits, bitorder="little"))


class Collection:
    """The pictures, or the texts, of a snapshot: read-only, memory-mapped, safe to use from several threads.

    It may be empty. `dim` is that of its vectors, `schema` that of its table.
    """

    def __init__(self, snapshot: Path, name: str, stamp: CollectionStamp, dim: int) -> None:
        """Open `<name>.arrow`, `<name>.order.npy` and `<name>.faiss` of a snapshot.

        Raises:
            SnapshotCorrupt: one cannot be read, or does not have the rows or the dim that the manifest says.
        """
        self.dim = dim
        self.table: tables.MappedTable = open_part(snapshot / f"{name}.arrow", tables.MappedTable)
        self.order: npt.NDArray[np.int64] = open_part(snapshot / f"{name}.order.npy", _map_order)
        self.index = open_part(snapshot / f"{name}.faiss", kinds.read_index)
        self._storage = kinds.storage_of(self.index)
        core = kinds.core_of(self.index)
        self._nlist: int = core.nlist if kinds.is_ivf(core) else 0
        self._limits = parameters.allowed(self.index)
        self._stamp = stamp.index
        self._selections: OrderedDict[bytes, Selection] = OrderedDict()
        self._lock = threading.Lock()

        counts = {"arrow": len(self.table), "order.npy": len(self.order), "faiss": self.index.ntotal}
        for suffix, rows in counts.items():
            if rows != stamp.rows:
                raise SnapshotCorrupt(f"{snapshot / name}.{suffix}: {rows} rows, {stamp.rows} in the manifest")
        if self.index.d != dim:
            raise SnapshotCorrupt(f"{snapshot / name}.faiss: dim {self.index.d}, {dim} in the manifest")

    def __len__(self) -> int:
        return len(self.table)

    @property
    def schema(self) -> pa.Schema:
        """The schema of the table: what `take` can return."""
        return self.table.schema

    def check_parameters(self, asked: parameters.Parameters) -> None:
        """Check parameters for `search`.

        Raises:
            BadParameter: one that this index does not have, or out of its bounds; the message lists what is allowed.
        """
        parameters.check(asked, self.index)

    def search(
        self,
        vectors: npt.NDArray[Any],
        k: int,
        *,
        exact: bool = False,
        where: Filter | None = None,
        params: parameters.Parameters | None = None,
        modality: str | None = None,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Find the nearest rows to each query.

        Args:
            vectors: queries of unit length, (q, dim), of any float dtype.
            k: how many rows, at least 1.
            exact: compare with every vector as stored (SQ kinds store them rounded) instead of walking the graph.
            where: a filter made for this collection's schema, which every row found satisfies.
            params: efSearch, nprobe or k_factor, instead of what was chosen for the target recall.
            modality: of the queries, "images" or "texts": the operating point that was chosen for them is taken;
                without it, one that serves both.

        Returns:
            Inner products, float32, descending, and rows, int64, both (q, min(k, rows to be searched)). Where a graph
            finds fewer, the rest is -inf and -1.

        Raises:
            DimensionMismatch: vectors of another shape.
            ValueError: NaN or infinity in vectors, or k below 1.
            BadParameter: as `check_parameters` says.
        """
        asked = params or {}
        self.check_parameters(asked)
        queries = check_vectors(vectors, self.dim)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        selection = self.select(where) if where is not None else None
        k = min(k, len(self) if selection is None else selection.count)
        if k == 0 or len(queries) == 0:
            return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        if not self._limits:
            exact = True
        wanted = self._parameters(k, asked, modality)
        if selection is None or selection.count == len(self):
            if exact:
                return kinds.search_all(self._storage, queries, k)
            return kinds.search(self.index, queries, k, parameters.to_faiss(self.index, wanted))
        return self._search_some(queries, k, wanted, selection, exact)

    def _parameters(self, k: int, asked: parameters.Parameters, modality: str | None) -> dict[str, int]:
        chosen = self._stamp.queries.get(modality or "")
        defaults = self._stamp.parameters if chosen is None else chosen.parameters
        known = {name: min(defaults.get(name, most), most) for name, most in self._limits.items()}
        return parameters.at_depth(known, asked, k, len(self), self._nlist)

    def select(self, where: Filter) -> Selection:
        """Which rows a filter keeps; remembered for the filters asked for last."""
        with self._lock:
            if (known := self._selections.get(where.key)) is not None:
                self._selections.move_to_end(where.key)
                return known
        mask = where.mask(self.table)
        found = Selection(int(mask.sum()), np.packbits(mask, bitorder="little"))
        with self._lock:
            self._selections[where.key] = found
            while len(self._selections) > _REMEMBERED:
                self._selections.popitem(last=False)
        return found

    def _search_some(
        self, queries: npt.NDArray[np.float32], k: int, wanted: dict[str, int], selection: Selection, exact: bool
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
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

    def _compare(
        self, queries: npt.NDArray[np.float32], k: int, selection: Selection
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Compare every row selected; few are gathered, many found by passing over the others."""
        if selection.count * GATHERED <= len(self):
            return kinds.search_rows(self._storage, queries, k, selection.rows)
        selector = kinds.load_faiss().IDSelectorBitmap(selection.bits)
        return kinds.search_all(self._storage, queries, k, selector)

    def take(self, rows: tables.Rows, columns: list[str] | None = None) -> pa.Table:
        """Return the given rows in the order given, duplicates allowed, of all columns or those named.

        Raises:
            IndexError: a row out of range.
            KeyError: an unknown column.
        """
        return self.table.take(rows, columns)

    def row_of(self, id: str) -> int:
        """Return the row that has this id, by binary search through the map.

        Raises:
            UnknownId: there is none.
        """
        place = bisect_left(self.order, id, key=self._id_at)
        if place < len(self.order) and self._id_at(row := int(self.order[place])) == id:
            return row
        raise UnknownId(f"there is no id {id!r}")

    def vectors(self, rows: tables.Rows) -> npt.NDArray[np.float32]:
        """Return the vectors of the given rows as stored, float32 (n, dim).

        Raises:
            IndexError: a row out of range.
        """
        wanted = tables.check_rows(rows, len(self))
        if len(wanted) == 0:
            return np.empty((0, self.dim), np.float32)
        reconstructed: npt.NDArray[np.float32] = self._storage.reconstruct_batch(wanted)
        return reconstructed

    def _id_at(self, row: int) -> str:
        value: str = self.table.value("id", int(row))
        return value


def check_vectors(vectors: npt.NDArray[Any], dim: int) -> npt.NDArray[np.float32]:
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


def _map_order(path: Path) -> npt.NDArray[np.int64]:
    order: npt.NDArray[np.int64] = np.load(path, mmap_mode="r", allow_pickle=False)
    if order.ndim != 1 or order.dtype != np.int64:
        raise ValueError(f"{order.dtype} of shape {order.shape}, not a list of int64")
    return order


def open_part(path: Path, opener: Any) -> Any:
    """Call `opener(path)`, turning the several errors of the libraries into one that names the file."""
    try:
        return opener(path)
    except (OSError, ValueError, RuntimeError, EOFError, pa.ArrowException) as error:
        raise SnapshotCorrupt(f"{path}: {error}") from error
