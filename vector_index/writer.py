"""Writing a snapshot: gathered beside the others in bounded memory, then published all at once."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vector_index import kinds, tables
from vector_index.collection import Collection
from vector_index.directory import IndexDirectory
from vector_index.errors import SnapshotCorrupt
from vector_index.files import fsync, link, sha256
from vector_index.kinds import Floats
from vector_index.manifest import MANIFEST_NAME, CollectionStamp, FileStamp, Manifest, ModelStamp, SegmentStamp
from vector_index.segment import Segment, check_vectors
from vector_index.segment_writer import SegmentWriter
from vector_index.snapshot import COLLECTIONS, REJECTS, Snapshot, manifest_hash, segment_files, thumbnails_name
from vector_index.tuning import Queries, Target, is_exact

_DEAD: Final = 0.25  # share of deleted rows from which a segment is rewritten: a graph walks through them all the same
_BY_ROWS: Final = attrgetter("rows")


class SnapshotWriter:
    """Gathers pictures and texts and publishes them as a new snapshot. The caller holds `directory.lock()`.

        with directory.lock(), SnapshotWriter(directory, model=stamp, source="photos/") as writer:
            writer.add_images(batch, vectors)
            name = writer.publish()

    With a `base` the new snapshot has what that one has, but for the rows removed, and what is added. The segments of
    the base are linked, not copied: the cost is that of the change. A new segment takes in the older ones before it
    that are no larger than what it has so far, so that there are never more than log2(rows) of them and each row is
    rewritten as seldom (O'Neil et al., 1996, "The Log-Structured Merge-Tree").

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
        text_queries: Callable[[], Floats] | None = None,
        base: Snapshot | None = None,
        further_source: str | None = None,
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
            base: a snapshot of the same directory and model to change.
            further_source: a place that addresses of what is added begin with.

        Raises:
            BadIndexType: an index type that FAISS cannot make or that cannot serve.
            ValueError: target_recall is not in (0, 1], or the base was built with another model.
        """
        kinds.check_index_type(index_type, model.dim)
        if not 0 < target_recall <= 1:
            raise ValueError(f"target_recall must be above 0 and at most 1, got {target_recall}")
        if base is not None and base.manifest.model.fingerprint != model.fingerprint:
            raise ValueError(f"snapshot {base.name} was built with another model ({base.manifest.model.reference!r})")
        self._directory = directory if isinstance(directory, IndexDirectory) else IndexDirectory(directory)
        self._model = model
        self._source = source
        self._index_type = index_type
        self._target = Target(target_recall, memory, target_latency_ms)
        self._text_queries = text_queries
        self._base = base
        known = base.manifest.sources if base is not None else []
        self._sources = list(dict.fromkeys([*known, *([further_source] if further_source else [])]))

        snapshots = self._directory.snapshots
        snapshots.mkdir(parents=True, exist_ok=True)
        for leftover in snapshots.glob(".tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=snapshots))
        self._path = self._temporary / "snapshot"
        self._path.mkdir()
        schemas = (tables.IMAGE_SCHEMA, tables.TEXT_SCHEMA)
        bases = (base.images, base.texts) if base is not None else (None, None)
        self._images, self._texts = (
            _Change(self._temporary / name, name, schema, model.dim, old)
            for name, schema, old in zip(COLLECTIONS, schemas, bases, strict=True)
        )
        self._seen: set[str] = set()  # uris that the base's rejects are no longer about
        self._reject_count = 0
        self._reject_file = (self._path / REJECTS).open("w", encoding="utf-8")
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
        self._images.new.add(batch, vectors, thumbnails)
        if self._base is not None:
            self._seen.update(map(str, batch.column("uri").to_pylist()))

    def add_texts(self, batch: pa.RecordBatch, vectors: npt.NDArray[Any]) -> None:
        """Add texts: n rows with columns `id` and `text` (string), `image_ids` (list of string); vectors (n, dim).

        Raises: as `add_images` does. That the images exist is checked when the snapshot is published.
        """
        self._check_open()
        self._texts.new.add(batch, vectors)

    def remove_images(self, rows: tables.Rows) -> None:
        """Leave out rows of the base's pictures. Raises IndexError for one that it does not have."""
        self._check_open()
        self._images.remove(rows)

    def remove_texts(self, rows: tables.Rows) -> None:
        """Leave out rows of the base's texts. Raises IndexError for one that it does not have."""
        self._check_open()
        self._texts.remove(rows)

    def add_reject(self, uri: str, reason: str) -> None:
        """Record an input that was left out, as a line `{"uri": …, "reason": …}` of rejects.jsonl."""
        self._check_open()
        self._write_reject(uri, reason)
        if self._base is not None:
            self._seen.add(uri)

    def forget_rejects(self, uris: Iterable[str]) -> None:
        """Leave out what the base says of these inputs."""
        self._seen.update(uris)

    def publish(self, *, compact: bool = False) -> str:
        """Build the indexes, write the manifest, verify it all, and make the snapshot the live one.

        A crash at any instant leaves the old snapshot serving: only the last step, which is atomic, changes CURRENT.
        The writer is spent afterwards, whether this succeeds or not.

        Args:
            compact: rewrite everything into one segment each, without the deleted rows.

        Returns:
            The snapshot's name, `<utc-time>-<hash>`.

        Raises:
            ValueError: there are no pictures, an id is there twice, or a text names a picture that is not.
            SnapshotCorrupt: what was written does not read back as it should.
        """
        self._check_open()
        try:
            return self._publish(compact)
        finally:
            self._discard()

    def _publish(self, compact: bool) -> str:
        if self._images.count == 0:
            raise ValueError(f"no pictures would be in the index ({self._reject_count} inputs were left out)")
        self._keep_rejects()
        self._reject_file.close()
        changes = (self._images, self._texts)
        linked: dict[str, FileStamp] = {}
        for change in changes:
            linked |= change.merge(self._path, self._base, compact)
        queries = [self._queries(change) for change in changes]
        image_stamp, text_stamp = (
            change.finish(self._path, self._index_type, asked, self._target)
            for change, asked in zip(changes, queries, strict=True)
        )

        created = datetime.now(UTC)
        manifest = Manifest(
            created=created,
            model=self._model,
            source=self._source,
            sources=self._sources,
            index_type=self._index_type,
            target_recall=self._target.recall,
            memory=self._target.memory,
            target_latency_ms=self._target.latency_ms,
            images=image_stamp,
            texts=text_stamp,
            rejects=self._reject_count,
            files={
                path.name: linked.get(path.name) or FileStamp(size=path.stat().st_size, sha256=sha256(path))
                for path in sorted(self._path.iterdir())
            },
        ).to_json()
        (self._path / MANIFEST_NAME).write_text(manifest, encoding="utf-8")
        for path in (*self._path.iterdir(), self._path):
            if path.name not in linked:
                fsync(path)

        name = f"{created:%Y%m%dT%H%M%S.%fZ}-{manifest_hash(manifest.encode())}"
        complete = self._temporary / name
        os.rename(self._path, complete)
        with Snapshot(complete) as snapshot:
            if problems := snapshot.verify(trusted=linked):
                raise _as_published(problems)
        os.rename(complete, self._directory.snapshots / name)
        fsync(self._directory.snapshots)
        self._directory.make_current(name)
        return name

    def _queries(self, searched: "_Change") -> dict[str, Queries]:
        """Vectors of each modality to measure the index of what is written with; none where it is exact."""
        if searched.exact(self._index_type):
            return {}
        queries = {change.name: change.sample(own=change is searched) for change in (self._images, self._texts)}
        if self._texts.count == 0 and self._text_queries is not None:
            queries["texts"] = Queries(check_vectors(self._text_queries(), self._model.dim))
        return queries

    def _write_reject(self, uri: str, reason: str) -> None:
        self._reject_file.write(json.dumps({"uri": uri, "reason": reason}, ensure_ascii=False) + "\n")
        self._reject_count += 1

    def _keep_rejects(self) -> None:
        """Those of the base that nothing new has been said of."""
        if self._base is None:
            return
        for uri, reason in self._base.rejects():
            if uri not in self._seen:
                self._write_reject(uri, reason)

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError("this writer has published its snapshot or was closed")

    def _discard(self) -> None:
        """Remove the temporary directory; what was published is no longer in it."""
        if self._open:
            self._open = False
            try:
                self._reject_file.close()
                self._images.close()
                self._texts.close()
            finally:  # a full disk stays full otherwise: closing writes what is left
                shutil.rmtree(self._temporary, ignore_errors=True)


class _Change:
    """One collection: the base's segments, the rows removed from them, and the segment in the making."""

    def __init__(self, scratch: Path, name: str, required: pa.Schema, dim: int, base: Collection | None) -> None:
        self.new = SegmentWriter(scratch, required, dim)
        self.name, self._scratch, self._required, self._dim, self._base = name, scratch, required, dim, base
        self._old: list[tuple[Segment, set[int]]] = [(each, set()) for each in base.segments] if base else []
        self._kept: list[SegmentStamp] = []
        self.writes = True

    @property
    def count(self) -> int:
        """Rows that there will be."""
        return self.new.rows + sum(segment.count - len(gone) for segment, gone in self._old)

    def remove(self, rows: tables.Rows) -> None:
        assert self._base is not None, "there is no base to remove from"
        removed = {id(segment): gone for segment, gone in self._old}
        for row in np.asarray(rows).tolist():
            segment, place = self._base.locate(row)
            if not segment.is_deleted(place):
                removed[id(segment)].add(place)

    def merge(self, snapshot: Path, base: Snapshot | None, compact: bool) -> dict[str, FileStamp]:
        """Link what stays as it is, gather what does not; returns the stamps of the files linked."""
        kept = 0 if compact else self._stay()
        absorbed = self._old[kept:]
        linked: dict[str, FileStamp] = {}
        schema = tables.unify([*(segment.table.schema for segment, _ in self._old), self.new.schema])
        for number, (segment, gone) in enumerate(self._old[:kept]):
            assert base is not None
            self._kept.append(self._link(snapshot, base, segment, gone, self._segment(number), linked))
        if absorbed:
            assert base is not None
            self.new.close()
            merged = SegmentWriter(self._scratch / "merged", self._required, self._dim)
            for segment, gone in absorbed:
                segment.table.schema = schema
                merged.add_live(segment, gone, base.thumbnails_of(segment))
            if self.new.rows:
                merged.add_written(self.new, schema)
            self.new = merged
        self.new.close()
        self.writes = bool(self.new.rows or not self._kept)
        return linked

    def sample(self, own: bool) -> Queries:
        """Queries to measure recall with: of what is written or of the base, whichever has more; `own` for those of
        what is measured."""
        if own or self._base is None or self.new.rows >= len(self._base):
            return self.new.sample(own)
        base, live = self._base, self._base.live()
        return Queries.sample(lambda rows: base.vectors(live[rows]), len(live), own=False)

    def exact(self, index_type: str) -> bool:
        """Whether what is written is searched exactly, so that nothing is to be measured."""
        return is_exact(index_type, self.new.rows)

    def finish(self, snapshot: Path, index_type: str, queries: dict[str, Queries], target: Target) -> CollectionStamp:
        stamps = list(self._kept)
        if self.writes:
            name, beside = self._segment(len(self._kept)), max(self._kept, key=_BY_ROWS, default=None)
            stamps.append(self.new.finish(snapshot, name, index_type, queries, target, beside))
        largest = max(stamps, key=_BY_ROWS)
        rows = sum(stamp.rows - stamp.deleted for stamp in stamps)
        return CollectionStamp(rows=rows, index=largest.index, segments=stamps)

    def close(self) -> None:
        self.new.close()

    def _stay(self) -> int:
        """How many of the base's segments, from the oldest, stay as they are."""
        kept, size = len(self._old), self.new.rows
        while kept and size and self._live(kept - 1) <= size:
            kept -= 1
            size += self._live(kept)
        for number in range(kept):
            if self._live(number) < (1 - _DEAD) * len(self._old[number][0]):
                return number
        return kept

    def _live(self, number: int) -> int:
        segment, gone = self._old[number]
        return segment.count - len(gone)

    def _segment(self, number: int) -> str:
        return f"{self.name}-{number}" if number else self.name

    def _link(
        self, snapshot: Path, base: Snapshot, segment: Segment, gone: set[int], name: str, linked: dict[str, FileStamp]
    ) -> SegmentStamp:
        old = segment.stamp.name
        pairs = list(zip(segment_files(old), segment_files(name), strict=True))
        if self.name == "images":
            pairs.append((thumbnails_name(old), thumbnails_name(name)))
        if segment.stamp.deleted and not gone:
            pairs.append((f"{old}.deleted.npy", f"{name}.deleted.npy"))
        for before, after in pairs:
            if before in base.manifest.files:
                link(base.path / before, snapshot / after)
                linked[after] = base.manifest.files[before]
        if gone:
            deleted = np.union1d(segment.deleted, np.array(sorted(gone), np.int64)).astype(np.int64)
            np.save(snapshot / f"{name}.deleted.npy", deleted)
        return segment.stamp.model_copy(update={"name": name, "deleted": segment.stamp.deleted + len(gone)})


def _as_published(problems: Iterable[str]) -> Exception:
    """What the caller gave wrong is a ValueError, what the disk did is corruption."""
    text = "; ".join(problems)
    given = "there twice" in text or "which does not exist" in text
    return ValueError(text) if given else SnapshotCorrupt(text)
