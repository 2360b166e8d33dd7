"""Build an index: read, decode and encode side by side, part by part, then publish."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa

from corpus import Source, SourceError, open_source, place_of
from indexer.engine import Encoder, Engine, Job, LocalEngine
from indexer.ledger import Again, Ledger, text_digest
from indexer.metadata import MetadataSchema
from indexer.parts import Workbench, unpack
from indexer.rows import Row, stamp
from vector_index import IndexDirectory, ModelStamp, SnapshotWriter


@dataclass(frozen=True)
class Progress:
    """`done` records of `total`, which is None where the source cannot say."""

    done: int
    total: int | None


@dataclass(frozen=True)
class BuildReport:
    """What came of a build; `resumed_parts` were taken over from an interrupted one."""

    snapshot: str
    images: int
    texts: int
    rejected: int
    duplicates: int
    seconds: float
    resumed_parts: int


def build_index(
    source_path: str | Path,
    out: str | Path,
    encoder: Encoder | Engine,
    *,
    captions: str | Path | None = None,
    index_type: str = "auto",
    target_recall: float = 0.95,
    resume: bool = True,
    thumbnails: bool = True,
    progress: Callable[[Progress], None] | None = None,
    part_size: int = 1024,
    batch_size: int = 32,
) -> BuildReport:
    """Index a folder, a table or shards into the index directory `out`, and make it the live snapshot.

    `source_path` and `captions` are paths, or addresses of files elsewhere (s3://…, https://…). `encoder` works in this
    process; an engine may work elsewhere, with the same result.

    An interrupted build of the same source with the same model goes on after its last finished part, and ends with
    the same snapshot as an uninterrupted one: a part is always encoded in the same batches. Memory holds one part
    and some decoded pictures of the next; what is remembered of every picture lies in a file in `out`/.build.

    Raises SourceError (nothing to index), IndexLocked (another build is at it), EngineError; the old snapshot stays.
    """
    began = time.monotonic()
    engine = encoder if isinstance(encoder, Engine) else LocalEngine(encoder)
    source = open_source(source_path, captions)
    directory = IndexDirectory(out)
    with directory.lock():
        plan = {
            "fingerprint": engine.fingerprint, "source": place_of(source_path), "captions": str(captions),
            "part_size": part_size, "batch_size": batch_size, "thumbnails": thumbnails,
        }  # fmt: skip
        bench = Workbench(directory.path / ".build", plan, resume)
        with closing(Ledger(bench.folder)) as ledger:
            work = _Build(bench, ledger)
            parts = work.run(source, engine, Job(part_size, batch_size, thumbnails), progress)
            if not work.images:
                first = f", {work.first_reject}" if work.first_reject else ""
                raise SourceError(f"no usable picture in {source_path}: {work.rejected} rejected{first}")
            model = ModelStamp(reference=engine.reference, fingerprint=engine.fingerprint, dim=engine.dim)
            with SnapshotWriter(
                directory, model=model, source=source.root, index_type=index_type, target_recall=target_recall
            ) as writer:
                texts = _assemble(bench, parts, work, writer, engine.dim, thumbnails)
                snapshot = writer.publish()
        bench.remove()
    seconds = time.monotonic() - began
    return BuildReport(snapshot, work.images, texts, work.rejected, work.duplicates, seconds, work.resumed)


class _Build:
    """The encoding half: records -> finished parts."""

    def __init__(self, bench: Workbench, ledger: Ledger) -> None:
        self._bench = bench
        self.ledger = ledger
        self.schema = MetadataSchema()
        self.images = self.rejected = self.duplicates = self.resumed = 0
        self.first_reject = ""

    def run(self, source: Source, engine: Engine, job: Job, progress: Callable[[Progress], None] | None) -> int:
        """Make every part that is not there yet; returns how many there are."""
        done = number = 0

        def report(more: int) -> None:
            if progress:
                progress(Progress(done + more, source.count))

        stream = source.records()
        while records := list(islice(stream, job.part_size)):
            rows = self._bench.load(number)
            if rows is None or [(r["uri"], r["stamp"]) for r in rows] != [(r.uri, stamp(r)) for r in records]:
                break
            self.ledger.note(rows)
            self._count(rows)
            self.resumed += 1
            number += 1
            done += len(rows)
            report(0)
        if records:
            self._bench.discard_from(number)
            with closing(engine.parts(chain(records, stream), self.ledger, job, report)) as parts:
                for rows in parts:
                    self._bench.save(number, rows)
                    self._count(rows)
                    number += 1
                    done += len(rows)
                    report(0)
        if progress:
            progress(Progress(done, done))
        return number

    def _count(self, rows: list[Row]) -> None:
        """Count a finished part, whether made now or earlier."""
        for row in rows:
            if row["reject"] is not None:
                self.rejected += 1
                self.first_reject = self.first_reject or f"the first ({row['uri']}): {row['reject']}"
            elif row["vector"] is None:
                self.duplicates += 1
            else:
                self.images += 1
                self.schema.see(json.loads(row["metadata"]))


def _assemble(bench: Workbench, parts: int, work: _Build, writer: SnapshotWriter, dim: int, thumbnails: bool) -> int:
    """Stream the parts into the snapshot, in the order of the source; returns the number of texts."""
    place = count = 0
    for number in range(parts):
        rows = bench.load(number)
        if rows is None:
            raise SourceError(f"{bench.folder}: part {number} cannot be read back; build again")
        for row in rows:
            for reason in row["caption_rejects"]:
                writer.add_reject(row["uri"], reason)
            if row["reject"] is not None:
                writer.add_reject(row["uri"], row["reject"])
        if good := [row for row in rows if row["vector"] is not None]:
            again = work.ledger.again(place, place + len(good))
            more = [again.get(at, Again([], [])) for at in range(place, place + len(good))]
            place += len(good)
            said = [
                list(dict.fromkeys(row["captions"] + later.captions)) for row, later in zip(good, more, strict=True)
            ]
            columns = {
                "id": pa.array([r["id"] or r["sha256"][:16] for r in good], pa.string()),
                "uri": pa.array([r["uri"] for r in good], pa.string()),
                "duplicate_uris": pa.array([later.uris for later in more], pa.list_(pa.string())),
                "width": pa.array([r["width"] for r in good], pa.int32()),
                "height": pa.array([r["height"] for r in good], pa.int32()),
                "sha256": pa.array([r["sha256"] for r in good], pa.string()),
                "captions": pa.array(said, pa.list_(pa.string())),
                "offset": pa.array([r["offset"] for r in good], pa.int64()),
                "length": pa.array([r["length"] for r in good], pa.int64()),
                **work.schema.columns(json.loads(r["metadata"]) for r in good),
            }
            small = [r["thumbnail"] for r in good] if thumbnails else None
            writer.add_images(pa.RecordBatch.from_pydict(columns), unpack([r["vector"] for r in good], dim), small)
        if texts := [text for row in rows for text in row["new_texts"]]:
            count += len(texts)
            batch = {
                "id": pa.array([text_digest(text).hex() for text in texts], pa.string()),
                "text": pa.array(texts, pa.string()),
                "image_ids": pa.array([work.ledger.pictures_of(text) for text in texts], pa.list_(pa.string())),
            }
            vectors = unpack([vector for row in rows for vector in row["text_vectors"]], dim)
            writer.add_texts(pa.RecordBatch.from_pydict(batch), vectors)
    return count
