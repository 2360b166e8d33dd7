"""Writing a segment: rows go to a table as they come, vectors to a flat float32 file, thumbnails to a table beside."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vector_index import tables
from vector_index.kinds import Floats, Ints
from vector_index.manifest import SegmentStamp
from vector_index.segment import Segment, check_vectors
from vector_index.snapshot import thumbnails_name
from vector_index.tuning import Queries, Target, build_index

_NORM_TOLERANCE: Final = 1e-2  # half-precision vectors pass, vectors that nobody normalised do not


class SegmentWriter:
    """Gathers rows in a scratch folder; `finish` makes them a segment of a snapshot."""

    def __init__(self, folder: Path, required: pa.Schema, dim: int) -> None:
        """`required` are the columns that every batch must have."""
        folder.mkdir()
        self.rows = 0
        self._folder = folder
        self._required = required
        self._dim = dim
        self._table: tables.TableWriter | None = None
        self._thumbnails: tables.TableWriter | None = None
        self._spill = (folder / "vectors.f32").open("wb")

    def add(
        self, batch: pa.RecordBatch, vectors: npt.NDArray[Any], thumbnails: Sequence[bytes | None] | None = None
    ) -> None:
        """Check all that is given, then write it. Raises: as `SnapshotWriter.add_images` does."""
        if thumbnails is not None and len(thumbnails) != batch.num_rows:
            raise ValueError(f"{len(thumbnails)} thumbnails for {batch.num_rows} rows")
        checked = check_vectors(vectors, self._dim)
        if len(checked) != batch.num_rows:
            raise ValueError(f"{len(checked)} vectors for {batch.num_rows} rows")
        norms = np.linalg.norm(checked, axis=1)
        off = np.flatnonzero(np.abs(norms - 1) > _NORM_TOLERANCE)
        if len(off):
            raise ValueError(f"vector {off[0]} is of length {norms[off[0]]:.4g}, not 1 ({len(off)} such)")
        tables.check_batch(batch, self._required, self._table.schema if self._table else None)
        self._table_writer(batch.schema).append(batch)
        self._spill.write(checked.data)
        if thumbnails is not None and any(thumbnail is not None for thumbnail in thumbnails):
            self._thumbnail_writer().append(_thumbnail_batch(thumbnails))
        self.rows += batch.num_rows

    def add_live(self, segment: Segment, gone: set[int], thumbnails: tables.MappedTable | None) -> None:
        """Add the rows of a segment that are neither deleted nor `gone`."""
        live = np.setdiff1d(np.flatnonzero(segment.live_mask()), np.array(sorted(gone), np.int64))
        for start in range(0, len(live), tables.BATCH_ROWS):
            rows = live[start : start + tables.BATCH_ROWS]
            vectors = segment.vectors(rows)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)  # as they were before they were rounded
            self._add_from(segment.table, rows, vectors, thumbnails)

    def add_written(self, other: "SegmentWriter", schema: pa.Schema) -> None:
        """Add all rows of another writer, in columns as `schema` has them."""
        other.close()
        table = other.table()
        table.schema = schema
        path, vectors = other._folder / "thumbnails.arrow", other.vectors()
        thumbnails = tables.MappedTable(path) if path.exists() else None
        for start in range(0, other.rows, tables.BATCH_ROWS):
            rows = np.arange(start, min(start + tables.BATCH_ROWS, other.rows))
            self._add_from(table, rows, vectors[start : start + tables.BATCH_ROWS], thumbnails)

    def _add_from(
        self,
        table: tables.MappedTable,
        rows: Ints,
        vectors: Floats,
        thumbnails: tables.MappedTable | None,
    ) -> None:
        small = None if thumbnails is None else thumbnails.take(rows, ["thumbnail"])["thumbnail"].to_pylist()
        start = 0
        for batch in table.take(rows).to_batches():
            part = slice(start, start + batch.num_rows)
            self.add(batch, vectors[part], small and small[part])
            start = part.stop

    @property
    def schema(self) -> pa.Schema:
        """The schema of the rows so far; of what is required, where there are none."""
        return self._table.schema if self._table else self._required

    def close(self) -> None:
        """Close the files. May be called again."""
        if self._spill.closed:
            return
        self._table_writer(self._required).close()  # an empty segment has a table too
        if self._thumbnails is not None:
            self._thumbnail_writer().close()
        self._spill.close()

    def table(self) -> tables.MappedTable:
        """The rows, once closed."""
        return tables.MappedTable(self._folder / "rows.arrow")

    def vectors(self) -> Floats:
        """The vectors, once closed: float32 (rows, dim), in a map."""
        shape = (self.rows, self._dim)
        return np.memmap(self._spill.name, np.float32, "r", shape=shape) if self.rows else np.empty(shape, np.float32)

    def sample(self, own: bool) -> Queries:
        """Queries to measure recall with, once closed; `own` for those of what is measured."""
        vectors = self.vectors()
        return Queries.sample(lambda rows: np.ascontiguousarray(vectors[rows]), self.rows, own=own)

    def finish(
        self,
        snapshot: Path,
        name: str,
        index_type: str,
        queries: dict[str, Queries],
        target: Target,
        beside: SegmentStamp | None,
    ) -> SegmentStamp:
        """Make it the segment `name` of the snapshot in the making at this path; `beside` as `build_index` has it.

        Raises:
            ValueError: an id is there twice.
        """
        self.close()
        table = self.table()
        order = tables.order_by_id(table)
        if (twice := tables.first_out_of_order(table, order)) is not None:
            raise ValueError(f"{name}: id {twice!r} is there twice")
        np.save(snapshot / f"{name}.order.npy", order)
        stamp = build_index(index_type, self.vectors(), queries, target, snapshot / f"{name}.faiss", beside)
        os.rename(self._folder / "rows.arrow", snapshot / f"{name}.arrow")
        if self._thumbnails is not None:
            os.rename(self._folder / "thumbnails.arrow", snapshot / thumbnails_name(name))
        (self._folder / "vectors.f32").unlink()
        return SegmentStamp(name=name, rows=self.rows, index=stamp)

    def _table_writer(self, schema: pa.Schema) -> tables.TableWriter:
        if self._table is None:
            self._table = tables.TableWriter(self._folder / "rows.arrow", schema)
        return self._table

    def _thumbnail_writer(self) -> tables.TableWriter:
        """It is filled up to `rows` with nulls, for pictures that came without."""
        if self._thumbnails is None:
            path, schema = self._folder / "thumbnails.arrow", tables.THUMBNAIL_SCHEMA
            self._thumbnails = tables.TableWriter(path, schema, tables.THUMBNAIL_BATCH_ROWS)
        while (missing := self.rows - self._thumbnails.rows) > 0:
            self._thumbnails.append(_thumbnail_batch([None] * min(missing, tables.THUMBNAIL_BATCH_ROWS)))
        return self._thumbnails


def _thumbnail_batch(thumbnails: Sequence[bytes | None]) -> pa.RecordBatch:
    return pa.record_batch([pa.array(thumbnails, pa.binary())], schema=tables.THUMBNAIL_SCHEMA)
