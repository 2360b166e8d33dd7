"""A collection: the pictures, or the texts, of a snapshot, in one or several segments."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vector_index import parameters, tables
from vector_index.errors import SnapshotCorrupt, UnknownId
from vector_index.filters import Filter
from vector_index.kinds import Floats, Ints
from vector_index.lru_cache import LRUCache
from vector_index.manifest import SegmentStamp
from vector_index.segment import Segment, check_vectors

_REMEMBERED: Final = 64  # counts of values
_LOOKED_FOR: Final = 1_000_000  # ids at a time


class Collection:
    """Read-only, memory-mapped, safe to use from several threads. It may be empty.

    `dim` is that of its vectors, `schema` that of its rows, whichever segment they are in. Rows are numbered through
    all segments; a deleted row keeps its number until its segment is rewritten.
    """

    exhaustive = True  # `exact` can be had

    def __init__(self, snapshot: Path, stamps: list[SegmentStamp], dim: int) -> None:
        """Open the segments of a snapshot.

        Raises:
            SnapshotCorrupt: a file cannot be read, or does not have the rows or the dim that the manifest says.
        """
        self.dim = dim
        self.segments = [Segment(snapshot, stamp, dim) for stamp in stamps]
        try:
            self.schema: pa.Schema = tables.unify([segment.table.stored for segment in self.segments])
        except ValueError as error:
            raise SnapshotCorrupt(f"{snapshot}: {error}") from None
        for segment in self.segments:
            segment.table.schema = self.schema
        self._count = sum(segment.count for segment in self.segments)
        self._starts = np.cumsum([0, *map(len, self.segments)], dtype=np.int64)
        self._counted: LRUCache[list[tuple[Any, int]]] = LRUCache(_REMEMBERED)

    def __len__(self) -> int:
        """Rows that are not deleted."""
        return self._count

    def hold(self, device: str) -> bool:
        """Compare with every vector on this device, where that is how segments are searched.

        Filters and deleted rows stay with the CPU; so does a segment that the device has no room for: False.
        """
        held = [segment.hold(device) for segment in self.segments]
        return all(held)

    def parse_filter(self, value: Any) -> Filter:
        """Check a filter as JSON has it. Raises: BadFilter."""
        return Filter.parse(value, self.schema)

    def check_parameters(self, asked: parameters.Parameters) -> None:
        """Check parameters for `search`.

        Raises:
            BadParameter: one that no index here has, or out of its bounds; the message lists what is allowed.
        """
        limits: dict[str, int] = {}
        for segment in self.segments:
            for name, most in segment.limits.items():
                limits[name] = max(most, limits.get(name, 0))
        parameters.check(asked, limits)

    def search(
        self,
        vectors: npt.NDArray[Any],
        k: int,
        *,
        exact: bool = False,
        where: Filter | None = None,
        params: parameters.Parameters | None = None,
        modality: str | None = None,
    ) -> tuple[Floats, Ints]:
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
        if asked:
            self.check_parameters(asked)
        queries = check_vectors(vectors, self.dim)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if len(queries) == 0:
            width = min(k, self.count(where))
            return np.empty((0, width), np.float32), np.empty((0, width), np.int64)
        found = [
            segment.search(queries, k, segment.select(where), exact=exact, params=asked, modality=modality)
            for segment in self.segments
        ]
        if len(found) == 1:
            return found[0]
        scores = np.hstack([scores for scores, _ in found])
        rows = np.hstack([np.where(r < 0, -1, r + s) for (_, r), s in zip(found, self._starts, strict=False)])
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)

    def count(self, where: Filter | None = None) -> int:
        """How many rows a filter keeps."""
        kept = ((segment, segment.select(where)) for segment in self.segments)
        return sum(len(segment) if selection is None else selection.count for segment, selection in kept)

    def live(self, where: Filter | None = None) -> Ints:
        """The rows that a filter keeps, ascending, int64."""
        found = []
        for segment, start in zip(self.segments, self._starts, strict=False):
            selection = segment.select(where)
            found.append(start + (np.arange(len(segment)) if selection is None else selection.rows))
        return np.concatenate(found)

    def take(self, rows: tables.Rows, columns: list[str] | None = None) -> pa.Table:
        """Return the given rows in the order given, duplicates allowed, of all columns or those named.

        Raises:
            IndexError: a row out of range.
            KeyError: an unknown column.
        """
        if len(self.segments) == 1:
            return self.segments[0].table.take(rows, columns)
        order, groups = self._by_segment(rows)
        parts = [self.segments[number].table.take(its, columns) for number, its in groups or [(0, order)]]
        return pa.concat_tables(parts).combine_chunks().take(tables.arrow_indices(order))

    def vectors(self, rows: tables.Rows) -> Floats:
        """Return the vectors of the given rows as stored, float32 (n, dim).

        Raises:
            IndexError: a row out of range.
        """
        order, groups = self._by_segment(rows)
        parts = (self.segments[number].vectors(its) for number, its in groups)
        return np.concatenate([np.empty((0, self.dim), np.float32), *parts])[order]

    def row_of(self, id: str) -> int:
        """Return the row that has this id, by binary search through the map.

        Raises:
            UnknownId: there is none.
        """
        for segment, start in zip(self.segments, self._starts, strict=False):
            if (row := segment.row_of(id)) is not None:
                return row + int(start)
        raise UnknownId(f"there is no id {id!r}")

    def locate(self, row: int) -> tuple[Segment, int]:
        """Return the segment that a row is in, and its number there.

        Raises:
            IndexError: a row out of range.
        """
        tables.check_rows([row], int(self._starts[-1]))
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.segments[number], row - int(self._starts[number])

    def value_counts(self, column: str, where: Filter | None = None, most: int = 20) -> list[tuple[Any, int]]:
        """The commonest values of a column among the rows that a filter keeps, and how many rows have each.

        A list counts for each of its different values; a row without a value for none. Remembered for what was asked
        for last.

        Raises:
            KeyError: there is no such column.
            TypeError: its values cannot be counted.
        """
        key = column, where and where.key, most
        return self._counted.get(key, lambda: self._count_values(column, where, most))

    def _count_values(self, column: str, where: Filter | None, most: int) -> list[tuple[Any, int]]:
        counted = []
        for segment in self.segments:
            selection = segment.select(where)
            values = segment.table.column(column)
            if selection is not None:
                values = values.filter(selection.mask(len(segment)))
            if pa.types.is_list(values.type):
                values = _once_a_row(values)
            if pa.types.is_nested(values.type):
                raise TypeError(f"a column of {values.type} has no values to count")
            counts = pc.value_counts(values.drop_null())
            counted.append(pa.table({"value": counts.field("values"), "count": counts.field("counts")}))
        # In Arrow to the end: Python would make objects of millions of values, and nothing else could run meanwhile.
        total = pa.concat_tables(counted)
        if len(counted) > 1:
            total = total.group_by("value").aggregate([("count", "sum")]).rename_columns(["value", "count"])
        keys: Any = [("count", "descending"), ("value", "ascending")]
        best: Any = total.take(pc.select_k_unstable(total, most, keys))  # type: ignore[call-overload]
        return list(zip(best["value"].to_pylist(), best["count"].to_pylist(), strict=True))

    def live_column(self, name: str) -> "pa.ChunkedArray[Any]":
        """A column of the rows that are not deleted."""
        chunks = [chunk for segment in self.segments for chunk in segment.live_column(name).chunks]
        return pa.chunked_array(chunks, self.schema.field(name).type)

    def duplicate_id(self) -> str | None:
        """An id that two segments have, None if there is none."""
        for older, newer in combinations([segment.live_column("id") for segment in self.segments], 2):
            few, many = sorted((older, newer), key=len)  # a table is made of the few alone
            if len(again := many.filter(pc.is_in(many, value_set=few))):
                return str(again[0].as_py())
        return None

    def _by_segment(self, rows: tables.Rows) -> tuple[Ints, list[tuple[int, Ints]]]:
        return tables.group_rows(tables.check_rows(rows, int(self._starts[-1])), self._starts)


def dangling_image_ids(images: Collection, texts: Collection) -> Iterator[str]:
    """Yield the image ids that texts name and no image has. Some are looked for at a time, in bounded memory."""
    ids, named = images.live_column("id"), pc.list_flatten(texts.live_column("image_ids"))
    for start in range(0, len(named), _LOOKED_FOR):
        some = named.slice(start, _LOOKED_FOR).unique()
        there = ids.filter(pc.is_in(ids, value_set=some))
        for missing in some.filter(pc.invert(pc.is_in(some, value_set=there))):
            yield str(missing.as_py())


def _once_a_row(lists: "pa.ChunkedArray[Any]") -> "pa.ChunkedArray[Any]":
    """The values of lists, those that are twice in one list once."""
    rows, values = pc.list_parent_indices(lists), pc.list_flatten(lists)
    pairs = pa.table({"row": rows, "value": values}).group_by(["row", "value"]).aggregate([])
    return pairs["value"]
