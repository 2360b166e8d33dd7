"""Build an index: read, decode and encode side by side, part by part, then publish."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from corpus import Record, Source, SourceError, open_source, place_of
from dual_encoder.image import ImageError, open_image
from indexer.ledger import Again, Ledger, text_digest
from indexer.metadata import OWN, MetadataSchema
from indexer.parts import Workbench, unpack
from indexer.thumbnail import SIDE, thumbnail
from vector_index import IndexDirectory, ModelStamp, SnapshotWriter

MAX_CAPTION = 10_000  # characters


class Encoder(Protocol):
    """What building needs of a dual encoder."""

    reference: str
    fingerprint: str
    dim: int

    @property
    def image_size(self) -> tuple[int, int]: ...
    @property
    def preprocess(self) -> Callable[[Image.Image], NDArray[np.float32]]: ...
    def encode_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]: ...
    def encode_texts(self, texts: list[str]) -> NDArray[np.float32]: ...


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
    encoder: Encoder,
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

    `source_path` and `captions` are paths, or addresses of files elsewhere (s3://…, https://…).

    An interrupted build of the same source with the same model goes on after its last finished part, and ends with
    the same snapshot as an uninterrupted one: a part is always encoded in the same batches. Memory holds one part
    and the next one's decoded pictures; what is remembered of every picture lies in a file in `out`/.build.

    Raises SourceError (nothing to index), IndexLocked (another build is at it); the old snapshot stays.
    """
    began = time.monotonic()
    source = open_source(source_path, captions)
    directory = IndexDirectory(out)
    with directory.lock():
        plan = {
            "fingerprint": encoder.fingerprint, "source": place_of(source_path), "captions": str(captions),
            "part_size": part_size, "batch_size": batch_size, "thumbnails": thumbnails,
        }  # fmt: skip
        bench = Workbench(directory.path / ".build", plan, resume)
        with closing(Ledger(bench.folder)) as ledger:
            work = Work(encoder, bench, ledger, thumbnails, batch_size)
            parts = work.run(source, part_size, progress)
            if not work.images:
                first = f", {work.first_reject}" if work.first_reject else ""
                raise SourceError(f"no usable picture in {source_path}: {work.rejected} rejected{first}")
            stamp = ModelStamp(reference=encoder.reference, fingerprint=encoder.fingerprint, dim=encoder.dim)
            with SnapshotWriter(
                directory, model=stamp, source=source.root, index_type=index_type, target_recall=target_recall
            ) as writer:
                texts = _assemble(bench, parts, work, writer, encoder.dim, thumbnails)
                snapshot = writer.publish()
        bench.remove()
    seconds = time.monotonic() - began
    return BuildReport(snapshot, work.images, texts, work.rejected, work.duplicates, seconds, work.resumed)


class Work:
    """The encoding half: records -> finished parts."""

    def __init__(
        self,
        encoder: Encoder,
        bench: Workbench,
        ledger: Ledger,
        thumbnails: bool,
        batch_size: int,
        *,
        captions: bool = True,
    ) -> None:
        """Without `captions` only pictures are encoded."""
        self._encoder, self._bench, self._thumbnails, self._batch = encoder, bench, thumbnails, batch_size
        self._captions = captions
        self.ledger = ledger
        self.schema = MetadataSchema()
        self.images = self.rejected = self.duplicates = self.resumed = 0
        self.first_reject = ""

    def run(self, source: Source, part_size: int, progress: Callable[[Progress], None] | None) -> int:
        """Make every part that is not there yet; returns how many there are."""
        done, number = 0, 0
        with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decoder") as decoders:
            stream = source.records()
            ahead: deque[tuple[int, list[Record], list[dict[str, Any]] | None, list[Future[Any]]]] = deque()
            fresh_from: int | None = None

            def look_ahead() -> None:
                nonlocal fresh_from, number
                records = list(islice(stream, part_size))
                if not records:
                    return
                rows = self._bench.load(number) if fresh_from is None else None
                if rows is not None and [(r["uri"], r["stamp"]) for r in rows] != [(r.uri, _stamp(r)) for r in records]:
                    rows = None
                if rows is None and fresh_from is None:
                    fresh_from = number
                    self._bench.discard_from(number)
                ahead.append((number, records, rows, []))
                number += 1

            def report(before: int, now: int) -> None:
                if progress:
                    progress(Progress(before + now, source.count))

            # Decoding runs ahead of encoding by a bounded number of pictures, across the border of parts.
            look_ahead()
            while ahead:
                look_ahead()
                part, records, rows, pending = ahead.popleft()
                if rows is None:
                    if not pending:
                        pending.extend(decoders.submit(self._decode, record) for record in records[: self._batch * 4])
                    rows = self._encode_part(records, pending, decoders, ahead, partial(report, done))
                    self._bench.save(part, rows)
                else:
                    self.resumed += 1
                self._note(rows)
                done += len(records)
                report(done, 0)
            if progress:
                progress(Progress(done, done))
        return number

    def _encode_part(
        self,
        records: list[Record],
        pending: list[Future[Any]],
        decoders: ThreadPoolExecutor,
        ahead: deque[Any],
        report: Callable[[int], None],
    ) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        waiting: list[tuple[dict[str, Any], NDArray[np.float32]]] = []
        fresh: set[bytes] = set()
        taken: set[str] = set()  # of the corpus' own ids

        def flush() -> None:
            vectors = self._encoder.encode_pixels(np.stack([pixels for _, pixels in waiting]))
            for (row, _), vector in zip(waiting, vectors, strict=True):
                row["vector"] = vector.astype(np.float32).tobytes()
            waiting.clear()
            report(len(rows))

        queue = deque(pending)
        rest = iter(records[len(pending) :])
        if ahead and ahead[0][2] is None:
            rest = iter([*records[len(pending) :], *ahead[0][1][: self._batch * 4]])
        for _ in records:
            row, pixels, small = queue.popleft().result()
            if (upcoming := next(rest, None)) is not None:
                queue.append(decoders.submit(self._decode, upcoming))
            rows.append(row)
            if row["reject"] is not None:
                continue
            digest = bytes.fromhex(row["sha256"])
            if digest in fresh or self.ledger.has_picture(digest):
                continue
            if row["id"] is not None:
                if row["id"] in taken or self.ledger.has_id(row["id"]):
                    row["reject"] = f"id {row['id']!r} belongs to another picture already"
                    continue
                taken.add(row["id"])
            fresh.add(digest)
            row["thumbnail"] = small
            waiting.append((row, pixels))
            if len(waiting) == self._batch:
                flush()
        if waiting:
            flush()
        if ahead:
            ahead[0][3].extend(queue)  # what was decoded ahead belongs to the next part
        if self._captions:
            self._encode_captions(rows)
        return rows

    def _encode_captions(self, rows: list[dict[str, Any]]) -> None:
        fresh: dict[str, int] = {}
        for number, row in enumerate(rows):
            if row["reject"] is None:
                for text in row["captions"]:
                    if text not in fresh and not self.ledger.has_text(text):
                        fresh[text] = number
        if not fresh:
            return
        vectors = self._encoder.encode_texts(list(fresh))
        for (text, number), vector in zip(fresh.items(), vectors, strict=True):
            rows[number]["new_texts"].append(text)
            rows[number]["text_vectors"].append(vector.astype(np.float32).tobytes())

    def _decode(self, record: Record) -> tuple[dict[str, Any], NDArray[np.float32] | None, bytes | None]:
        """Everything about a record that needs no encoder; runs on any thread."""
        good = [text for text in record.captions if len(text) <= MAX_CAPTION]
        row: dict[str, Any] = {
            "uri": record.uri, "stamp": _stamp(record), "reject": None, "sha256": None, "id": record.id,
            "width": None, "height": None, "captions": list(dict.fromkeys(good)),
            "caption_rejects": [f"a caption has {len(t):,} characters, more than {MAX_CAPTION:,}"
                                for t in record.captions if len(t) > MAX_CAPTION],
            "metadata": json.dumps(record.metadata, default=str), "offset": record.offset,
            "length": record.length, "thumbnail": None, "vector": None, "text_vectors": [], "new_texts": [],
        }  # fmt: skip
        try:
            data = record.read()
            # Reduced-scale decoding must still leave a thumbnail its pixels.
            decoded = open_image(data, max(*self._encoder.image_size, SIDE // 2))
            row |= {"sha256": hashlib.sha256(data).hexdigest(), "width": decoded.width, "height": decoded.height}
            small = thumbnail(decoded.image) if self._thumbnails else None
            return row, self._encoder.preprocess(decoded.image), small
        except OSError as error:
            row["reject"] = f"cannot be read: {error.strerror or error}"
        except MemoryError:
            row["reject"] = "the picture does not fit into memory"
        except (ImageError, ValueError) as error:
            row["reject"] = str(error)
        return row, None, None

    def _note(self, rows: list[dict[str, Any]]) -> None:
        """Count a finished part, and remember what it has, whether made now or earlier."""
        for row in rows:
            if row["reject"] is not None:
                self.rejected += 1
                self.first_reject = self.first_reject or f"the first ({row['uri']}): {row['reject']}"
            elif row["vector"] is None:
                self.duplicates += 1
            else:
                self.images += 1
                self.schema.see(json.loads(row["metadata"]))
        self.ledger.note(rows)


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


def finished(bench: Workbench, number: int) -> list[dict[str, Any]]:
    """The rows of a part that is there. Raises SourceError where it is not."""
    rows = bench.load(number)
    if rows is None:
        raise SourceError(f"{bench.folder}: part {number} cannot be read back; build again")
    return rows


def rejects(rows: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Addresses and reasons of what is left out of a part."""
    for row in rows:
        for reason in row["caption_rejects"]:
            yield row["uri"], reason
        if row["reject"] is not None:
            yield row["uri"], row["reject"]


def good_pictures(rows: list[dict[str, Any]], ledger: Ledger, place: int) -> list[dict[str, Any]]:
    """Of the rows of a part those that are pictures, the first at `place`, with what later records add to them."""
    good = [row for row in rows if row["vector"] is not None]
    again = ledger.again(place, place + len(good))
    for at, row in enumerate(good, place):
        later = again.get(at, Again([], []))
        row["id"] = row["id"] or row["sha256"][:16]
        row["duplicate_uris"] = later.uris
        row["captions"] = list(dict.fromkeys(row["captions"] + later.captions))
        row["metadata"] = json.loads(row["metadata"])
    return good


def image_batch(rows: list[dict[str, Any]], schema: MetadataSchema) -> pa.RecordBatch:
    """Rows as `good_pictures` gives them -> columns as the images of an index have them."""
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in OWN.items()}
    return pa.RecordBatch.from_pydict({**columns, **schema.columns(row["metadata"] for row in rows)})


def _stamp(record: Record) -> str:
    """Changes with the file and with all that a table says of it: a caption edited since is encoded anew."""
    said = json.dumps([record.id, record.captions, record.metadata, record.offset, record.length], default=str)
    return f"{record.stamp} {hashlib.sha256(said.encode()).hexdigest()[:16]}"
