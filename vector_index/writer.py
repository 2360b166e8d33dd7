"""Writing a snapshot: gathered beside the others in bounded memory, then published all at once."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vector_index import kinds, tables
from vector_index.collection import check_vectors
from vector_index.directory import IndexDirectory
from vector_index.errors import SnapshotCorrupt
from vector_index.files import fsync, sha256
from vector_index.manifest import MANIFEST_NAME, CollectionStamp, FileStamp, Manifest, ModelStamp
from vector_index.snapshot import REJECTS, THUMBNAILS, Snapshot, manifest_hash
from vector_index.tuning import RECALL_QUERIES, Queries, Target, build_index, is_exact

_NORM_TOLERANCE: Final = 1e-2  # half-precision vectors pass, vectors that nobody normalised do not


class SnapshotWriter:
    """Gathers pictures and texts and publishes them as a new snapshot. The caller holds `directory.lock()`.

        with directory.lock(), SnapshotWriter(directory, model=stamp, source="photos/") as writer:
            writer.add_images(batch, vectors)
            name = writer.publish()

    Leaving the block without publishing leaves no trace. What a writer that was killed left behind is removed when
    the next one starts. Every `add_…` checks all that it is given before it writes any of it.
    """

    def __init__(
        self,
        directory: IndexDirectory | str | Path,
        *,
        model: ModelStamp,
        source: str,
        index_type: str = "auto",
        target_recall: float = 0.95,
        memory: int | None = None,
        target_latency_ms: float | None = None,
        text_queries: Callable[[], npt.NDArray[np.float32]] | None = None,
    ) -> None:
        """Start a snapshot.

        Args:
            directory: the index, which need not exist yet.
            model: the encoder that made the vectors.
            source: what was indexed, for the manifest.
            index_type: "auto" (chosen by measurement for images and texts apart), or a string of FAISS' index_factory.
            target_recall: the recall@10 that the index's search parameters are chosen for.
            memory: bytes that "auto" may let an index hold in memory.
            target_latency_ms: milliseconds that a query may take, on one thread, where the recall allows it.
            text_queries: gives unit vectors of texts such as will be asked, (q, dim); called for a corpus that has no
                texts of its own and is not searched exactly.

        Raises:
            BadIndexType: an index type that FAISS cannot make or that cannot serve.
            ValueError: target_recall is not in (0, 1].
        """
        kinds.check_index_type(index_type, model.dim)
        if not 0 < target_recall <= 1:
            raise ValueError(f"target_recall must be above 0 and at most 1, got {target_recall}")
        self._directory = directory if isinstance(directory, IndexDirectory) else IndexDirectory(directory)
        self._model = model
        self._source = source
        self._index_type = index_type
        self._target = Target(target_recall, memory, target_latency_ms)
        self._text_queries = text_queries

        snapshots = self._directory.snapshots
        snapshots.mkdir(parents=True, exist_ok=True)
        for leftover in snapshots.glob(".tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=snapshots))
        self._path = self._temporary / "snapshot"
        self._path.mkdir()
        self._images = _Part(self._path, "images", tables.IMAGE_SCHEMA, model.dim)
        self._texts = _Part(self._path, "texts", tables.TEXT_SCHEMA, model.dim)
        self._thumbnails: tables.TableWriter | None = None
        self._reject_file = (self._path / REJECTS).open("w", encoding="utf-8")
        self._rejects = 0
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def add_images(
        self,
        batch: pa.RecordBatch,
        vectors: npt.NDArray[Any],
        thumbnails: Sequence[bytes | None] | None = None,
    ) -> None:
        """Add pictures.

        Args:
            batch: n rows with string columns `id` and `uri`; any further columns are kept as they are.
            vectors: their vectors, of unit length, (n, dim).
            thumbnails: n small encoded pictures, None for a row that has none.

        Raises:
            DimensionMismatch: vectors are not (n, dim).
            ValueError: another number of vectors or thumbnails than rows, vectors with NaN or not of unit length,
                a required column missing, or another schema than the batches before.
        """
        self._check_open()
        if thumbnails is not None and len(thumbnails) != batch.num_rows:
            raise ValueError(f"{len(thumbnails)} thumbnails for {batch.num_rows} rows")
        before = self._images.rows
        self._images.add(batch, vectors)
        if thumbnails is None or all(thumbnail is None for thumbnail in thumbnails):
            return
        if self._thumbnails is None:
            path, schema = self._path / THUMBNAILS, tables.THUMBNAIL_SCHEMA
            self._thumbnails = tables.TableWriter(path, schema, tables.THUMBNAIL_BATCH_ROWS)
        self._pad_thumbnails(before)
        self._append_thumbnails(thumbnails)

    def add_texts(self, batch: pa.RecordBatch, vectors: npt.NDArray[Any]) -> None:
        """Add texts: n rows with columns `id` and `text` (string), `image_ids` (list of string); vectors (n, dim).

        Raises: as `add_images` does. That the images exist is checked when the snapshot is published.
        """
        self._check_open()
        self._texts.add(batch, vectors)

    def add_reject(self, uri: str, reason: str) -> None:
        """Record an input that was left out, as a line `{"uri": …, "reason": …}` of rejects.jsonl."""
        self._check_open()
        self._reject_file.write(json.dumps({"uri": uri, "reason": reason}, ensure_ascii=False) + "\n")
        self._rejects += 1

    def publish(self) -> str:
        """Build the indexes, write the manifest, verify it all, and make the snapshot the live one.

        A crash at any instant leaves the old snapshot serving: only the last step, which is atomic, changes CURRENT.
        The writer is spent afterwards, whether this succeeds or not.

        Returns:
            The snapshot's name, `<utc-time>-<hash>`.

        Raises:
            ValueError: there are no pictures, an id is there twice, or a text names a picture that is not.
            SnapshotCorrupt: what was written does not read back as it should.
        """
        self._check_open()
        try:
            return self._publish()
        finally:
            self._discard()

    def _publish(self) -> str:
        if self._images.rows == 0:
            raise ValueError(f"there are no pictures to publish ({self._rejects} inputs were left out)")
        self._close_files()
        images, texts = self._images.finish(), self._texts.finish()
        for id in tables.dangling_image_ids(images, texts):
            raise ValueError(f"a text names image {id!r}, which does not exist")

        image_stamp = self._images.build(self._index_type, self._queries(self._images), self._target)
        text_stamp = self._texts.build(self._index_type, self._queries(self._texts), self._target)

        created = datetime.now(UTC)
        manifest = Manifest(
            created=created,
            model=self._model,
            source=self._source,
            target_recall=self._target.recall,
            images=image_stamp,
            texts=text_stamp,
            rejects=self._rejects,
            files={
                path.name: FileStamp(size=path.stat().st_size, sha256=sha256(path))
                for path in sorted(self._path.iterdir())
            },
        ).to_json()
        (self._path / MANIFEST_NAME).write_text(manifest, encoding="utf-8")
        for path in (*self._path.iterdir(), self._path):
            fsync(path)

        name = f"{created:%Y%m%dT%H%M%S.%fZ}-{manifest_hash(manifest.encode())}"
        complete = self._temporary / name
        os.rename(self._path, complete)
        with Snapshot(complete) as snapshot:
            if problems := snapshot.verify():
                raise SnapshotCorrupt("; ".join(problems))
        os.rename(complete, self._directory.snapshots / name)
        fsync(self._directory.snapshots)
        self._directory.make_current(name)
        return name

    def _queries(self, searched: "_Part") -> dict[str, Queries]:
        """Vectors of each modality to measure the index of a part with."""
        queries = {part.name: part.sample(own=part is searched) for part in (self._images, self._texts) if part.rows}
        if not self._texts.rows and self._text_queries is not None and not is_exact(self._index_type, searched.rows):
            queries["texts"] = Queries(check_vectors(self._text_queries(), self._model.dim))
        return queries

    def _pad_thumbnails(self, rows: int) -> None:
        """Fill thumbnails up to `rows` with nulls, for pictures that came without."""
        assert self._thumbnails is not None
        while (missing := rows - self._thumbnails.rows) > 0:
            self._append_thumbnails([None] * min(missing, tables.THUMBNAIL_BATCH_ROWS))

    def _append_thumbnails(self, thumbnails: Sequence[bytes | None]) -> None:
        assert self._thumbnails is not None
        column = pa.array(thumbnails, pa.binary())
        self._thumbnails.append(pa.record_batch([column], schema=tables.THUMBNAIL_SCHEMA))

    def _close_files(self) -> None:
        if self._thumbnails is not None:
            self._pad_thumbnails(self._images.rows)
            self._thumbnails.close()
        self._reject_file.close()

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError("this writer has published its snapshot or was closed")

    def _discard(self) -> None:
        """Remove the temporary directory; what was published is no longer in it."""
        if self._open:
            self._open = False
            self._reject_file.close()
            self._images.close()
            self._texts.close()
            shutil.rmtree(self._temporary, ignore_errors=True)


class _Part:
    """One collection being written: rows go to its table, vectors to a flat float32 file beside the snapshot."""

    def __init__(self, snapshot: Path, name: str, required: pa.Schema, dim: int) -> None:
        self.rows = 0
        self._snapshot = snapshot
        self.name = name
        self._required = required
        self._dim = dim
        self._table: tables.TableWriter | None = None
        self._spill = (snapshot.parent / f"{name}.f32").open("wb")

    def add(self, batch: pa.RecordBatch, vectors: npt.NDArray[Any]) -> None:
        """Check rows and vectors, then write both."""
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
        self.rows += batch.num_rows

    def finish(self) -> tables.MappedTable:
        """Close the files, write the order of the ids, and return the table. ValueError if an id is there twice."""
        self._table_writer(self._required)  # an empty collection has a table too
        self.close()
        table = tables.MappedTable(self._snapshot / f"{self.name}.arrow")
        order = tables.order_by_id(table)
        if (twice := tables.first_out_of_order(table, order)) is not None:
            raise ValueError(f"{self.name}: id {twice!r} is there twice")
        np.save(self._snapshot / f"{self.name}.order.npy", order)
        return table

    def sample(self, own: bool) -> Queries:
        """Return queries to measure recall with: some of the vectors, which may be rows of the index measured."""
        rows = kinds.evenly_spread(self.rows, RECALL_QUERIES)
        return Queries(np.ascontiguousarray(self._vectors()[rows]), rows if own else None)

    def build(self, kind: str, queries: dict[str, Queries], target: Target) -> CollectionStamp:
        """Build the FAISS index from the spilled vectors."""
        path = self._snapshot / f"{self.name}.faiss"
        return CollectionStamp(rows=self.rows, index=build_index(kind, self._vectors(), queries, target, path))

    def close(self) -> None:
        """Close the files."""
        self._spill.close()
        if self._table is not None:
            self._table.close()

    def _table_writer(self, schema: pa.Schema) -> tables.TableWriter:
        if self._table is None:
            self._table = tables.TableWriter(self._snapshot / f"{self.name}.arrow", schema)
        return self._table

    def _vectors(self) -> kinds.Floats:
        shape = (self.rows, self._dim)
        return np.memmap(self._spill.name, np.float32, "r", shape=shape) if self.rows else np.empty(shape, np.float32)
