"""Build an index: read, decode and encode side by side, part by part, then publish."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from corpus import Source, SourceError, open_source, place_of
from indexer.engine import Encoder, Engine, Job, LocalEngine
from indexer.ledger import Again, Ledger, text_digest
from indexer.metadata import OWN, MetadataSchema
from indexer.parts import Workbench, unpack
from indexer.queries import bundled_queries
from indexer.rows import Row, stamp
from vector_index import IndexDirectory, ModelStamp, SnapshotWriter
from vector_index.kinds import check_index_type


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
    memory: int | None = None,
    target_latency_ms: float | None = None,
    resume: bool = True,
    thumbnails: bool = True,
    progress: Callable[[Progress], None] | None = None,
    part_size: int = 1024,
    batch_size: int | None = None,
) -> BuildReport:
    """Index a folder, a table or shards into the index directory `out`, and make it the live snapshot.

    `source_path` and `captions` are paths, or addresses of files elsewhere (s3://…, https://…). `encoder` works in this
    process; an engine may work elsewhere, with the same result.

    An interrupted build of the same source with the same model goes on after its last finished part, and ends with
    the same snapshot as an uninterrupted one: a part is always encoded in the same batches, by default of as many
    pictures as the encoder likes best. Memory holds one part
    and some decoded pictures of the next; what is remembered of every picture lies in a file in `out`/.build.

    `index_type`, `target_recall`, `memory` (bytes) and `target_latency_ms` are those of vector_index.SnapshotWriter; a
    corpus without captions is tuned for texts with the queries of queries.txt.

    Raises SourceError (nothing to index), BadIndexType, IndexLocked (another build is at it), EngineError; the old
    snapshot stays.
    """
    began = time.monotonic()
    engine = encoder if isinstance(encoder, Engine) else LocalEngine(encoder)
    batch_size = batch_size or engine.batch
    check_index_type(index_type, engine.dim)  # the writer does too, but when all is encoded
    source = open_source(source_path, captions)
    directory = IndexDirectory(out)
    with directory.lock():
        plan = {
            "fingerprint": engine.fingerprint, "arithmetic": engine.arithmetic, "source": place_of(source_path),
            "captions": str(captions), "part_size": part_size, "batch_size": batch_size, "thumbnails": thumbnails,
        }  # fmt: skip
        bench = Workbench(directory.path / ".build", plan, resume)
        with closing(Ledger(bench.folder)) as ledger:
            work = Work(bench, ledger)
            parts = work.run(source, engine, Job(part_size, batch_size, thumbnails), progress)
            if not work.images:
                first = f", {work.first_reject}" if work.first_reject else ""
                raise SourceError(f"no usable picture in {source_path}: {work.rejected} rejected{first}")
            model = ModelStamp(reference=engine.reference, fingerprint=engine.fingerprint, dim=engine.dim)
            with SnapshotWriter(
                directory, model=model, source=source.root, index_type=index_type, target_recall=target_recall,
                memory=memory, target_latency_ms=target_latency_ms, text_queries=queries_of(engine.encoder),
            ) as writer:  # fmt: skip
                texts = _assemble(bench, parts, work, writer, engine.dim, thumbnails)
                snapshot = writer.publish()
        bench.remove()
    seconds = time.monotonic() - began
    return BuildReport(snapshot, work.images, texts, work.rejected, work.duplicates, seconds, work.resumed)


class Work:
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


def _assemble(bench: Workbench, parts: int, work: Work, writer: SnapshotWriter, dim: int, thumbnails: bool) -> int:
    """Stream the parts into the snapshot, in the order of the source; returns the number of texts."""
    place = count = 0
    for number in range(parts):
        rows = finished(bench, number)
        for uri, reason in rejects(rows):
            writer.add_reject(uri, reason)
        if good := good_pictures(rows, work.ledger, place):
            place += len(good)
            small = [r["thumbnail"] for r in good] if thumbnails else None
            writer.add_images(image_batch(good, work.schema), unpack([r["vector"] for r in good], dim), small)
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


def queries_of(encoder: Encoder | None) -> Callable[[], NDArray[np.float32]] | None:
    """Gives vectors of the bundled queries, to tune an index with whose corpus has no captions of its own."""
    if encoder is None:
        return None
    return partial(encoder.encode_texts, bundled_queries())


def finished(bench: Workbench, number: int) -> list[Row]:
    """The rows of a part that is there. Raises SourceError where it is not."""
    rows = bench.load(number)
    if rows is None:
        raise SourceError(f"{bench.folder}: part {number} cannot be read back; build again")
    return rows


def rejects(rows: list[Row]) -> Iterator[tuple[str, str]]:
    """Addresses and reasons of what is left out of a part."""
    for row in rows:
        for reason in row["caption_rejects"]:
            yield row["uri"], reason
        if row["reject"] is not None:
            yield row["uri"], row["reject"]


def good_pictures(rows: list[Row], ledger: Ledger, place: int) -> list[Row]:
    """Of the rows of a part those that are pictures, the first at `place`, with what later records add to them."""
    good = [row for row in rows if row["vector"] is not None]
    again = ledger.again(place, place + len(good))
    for at, row in enumerate(good, place):
        later = again.get(at, Again([], []))
        row["id"] = row["id"] or row["sha256"][:16]
        row["duplicate_uris"] = [uri for uri in dict.fromkeys(later.uris) if uri != row["uri"]]
        row["captions"] = list(dict.fromkeys(row["captions"] + later.captions))
        row["metadata"] = json.loads(row["metadata"])
    return good


def image_batch(rows: list[Row], schema: MetadataSchema) -> pa.RecordBatch:
    """Rows as `good_pictures` gives them -> columns as the images of an index have them."""
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in OWN.items()}
    return pa.RecordBatch.from_pydict({**columns, **schema.columns(row["metadata"] for row in rows)})
