"""Change an index: what is new in a corpus is encoded, what has changed or gone is taken note of, the rest stays."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from corpus import Record, Source, open_source, place_of
from corpus.remote import is_remote
from dual_encoder.cores import cores
from indexer.build import Progress, Work, finished, good_pictures, image_batch, queries_of, rejects
from indexer.captions import CaptionChanges
from indexer.engine import Encoder, Job, LocalEngine
from indexer.known import Known
from indexer.ledger import Ledger
from indexer.metadata import OWN, MetadataSchema, as_columns, converted
from indexer.parts import Workbench, unpack
from indexer.rows import MAX_CAPTION
from vector_index import IndexDirectory, Snapshot, SnapshotWriter, UnknownId

log = logging.getLogger(__name__)

_AHEAD = 64  # records read ahead
_BATCH = 1024


@dataclass(frozen=True)
class ChangeReport:
    """What came of a change: numbers of pictures. `snapshot` is the live one, the old one where nothing changed."""

    snapshot: str
    added: int
    changed: int
    removed: int
    unchanged: int
    rejected: int
    seconds: float


def add_to_index(
    source_path: str | Path,
    index: str | Path,
    encoder: Encoder,
    *,
    captions: str | Path | None = None,
    prune: bool = False,
    resume: bool = True,
    thumbnails: bool = True,
    progress: Callable[[Progress], None] | None = None,
    part_size: int = 1024,
    batch_size: int | None = None,
) -> ChangeReport:
    """Bring a corpus into an index that is there already, and publish the result as the live snapshot.

    A picture whose bytes the index has is not encoded again: its captions, metadata and further addresses are taken
    over where they differ. A file that has other bytes than before takes the place of what it was, and a picture with
    an id that is there already the place of that one. With `prune` pictures that this corpus had before and has no
    longer are removed; without, they stay. An interrupted change goes on after its last finished part.

    Raises IndexNotFound, IndexLocked, SourceError; ValueError where the index was built with another model. Then, and
    after a crash, the old snapshot stays.
    """
    began = time.monotonic()
    source = open_source(source_path, captions)
    directory = IndexDirectory(index)
    with directory.change() as base:
        if base.manifest.model.fingerprint != encoder.fingerprint:
            raise ValueError(f"{index} was built with another model ({base.manifest.model.reference!r})")
        change = _Change(base, prune)
        engine = LocalEngine(encoder)
        batch_size = batch_size or engine.batch
        plan = {
            "base": base.name, "fingerprint": engine.fingerprint, "arithmetic": engine.arithmetic,
            "source": place_of(source_path), "captions": str(captions), "part_size": part_size,
            "batch_size": batch_size, "thumbnails": thumbnails,
        }  # fmt: skip
        bench = Workbench(directory.path / ".build", plan, resume)
        with closing(Ledger(bench.folder)) as ledger:
            work = Work(bench, ledger)
            job = Job(part_size, batch_size, thumbnails, captions=False)
            foreign = source.root if source.root not in (base.manifest.source, "") else None

            def report(p: Progress) -> None:
                if progress:
                    progress(Progress(p.done + change.known_records, p.total))

            with closing(change.fresh(_placed(source, foreign))) as records:
                parts = work.run(Source(source.root, lambda: records, source.count), engine, job, report)
            with _writer(directory, base, foreign, encoder) as writer:
                change.take_in(bench, parts, work, writer)
                if prune:
                    change.prune(foreign)
                writer.forget_rejects(change.mended)
                change.settle(work.schema)
                _warn_of_mixed(source_path, base.images.schema, work.schema.types)
                for _, rows in encoded(bench, parts, work):
                    small = [row["thumbnail"] for row in rows] if thumbnails else None
                    vectors = unpack([row["vector"] for row in rows], encoder.dim)
                    if rows:
                        writer.add_images(image_batch(rows, work.schema), vectors, small)
                change.write(writer, encoder, work.schema)
                reject_news = change.mended or change.rejects - set(base.rejects())
                is_other = work.images or change.changed or change.removed or reject_news
                snapshot = writer.publish() if is_other else base.name
        bench.remove()
    if change.other_ids:
        said = "%s: %d pictures keep the id that they have in the index, %s; building anew gives them theirs"
        log.warning(said, source_path, change.other_ids, change.other_id)
    return ChangeReport(
        snapshot, work.images, change.changed, change.removed, change.unchanged, work.rejected,
        time.monotonic() - began,
    )  # fmt: skip


def remove_from_index(index: str | Path, rows_of: Callable[[Snapshot], Iterable[int]]) -> ChangeReport:
    """Remove pictures, and captions that belong to no other; `rows_of` says which rows of the live snapshot.

    Raises IndexNotFound, IndexLocked, what `rows_of` raises, ValueError where no picture would be left.
    """
    began = time.monotonic()
    directory = IndexDirectory(index)
    with directory.change() as base:
        change = _Change(base)
        for row in rows_of(base):
            change.item(int(row)).places.clear()
        schema = MetadataSchema()
        change.settle(schema)
        with _writer(directory, base) as writer:
            change.write(writer, None, schema)
            snapshot = writer.publish() if change.removed else base.name
    return ChangeReport(snapshot, 0, 0, change.removed, change.unchanged, 0, time.monotonic() - began)


def compact_index(index: str | Path) -> str:
    """Rewrite the live snapshot as one segment without deleted rows; returns the new one's name. Raises as above."""
    directory = IndexDirectory(index)
    with directory.change() as base, _writer(directory, base) as writer:
        return writer.publish(compact=True)


def _writer(
    directory: IndexDirectory, base: Snapshot, foreign: str | None = None, encoder: Encoder | None = None
) -> SnapshotWriter:
    manifest = base.manifest
    return SnapshotWriter(
        directory, model=manifest.model, source=manifest.source, base=base, index_type=manifest.index_type,
        target_recall=manifest.target_recall, memory=manifest.memory, target_latency_ms=manifest.target_latency_ms,
        further_source=foreign, text_queries=queries_of(encoder),
    )  # fmt: skip


def _warn_of_mixed(source_path: str | Path, before: pa.Schema, now: dict[str, Any]) -> None:
    """Name the columns that are of lists in the index and of something else in what is added, or vice versa."""
    said = "%s: %r has lists either in the index or in what is added, not in both; all of it becomes texts of JSON"
    for name in sorted(now.keys() & set(before.names)):
        was = before.field(name).type
        if not pa.types.is_null(was) and pa.types.is_list(was) != pa.types.is_list(now[name]):
            log.warning(said + ", into which no filter looks: build anew, from lists alone", source_path, name)


def _placed(source: Source, foreign: str | None) -> Iterator[Record]:
    """Records of a corpus elsewhere than the index' own get addresses that say where."""
    for record in source.records():
        if foreign is None or is_remote(record.uri) or os.path.isabs(record.uri):
            yield record
        else:
            yield replace(record, uri=f"{foreign.rstrip('/')}/{record.uri}")


class _Change:
    """The base's pictures that change. Memory holds these, and some 16 bytes for each picture that there is."""

    def __init__(self, base: Snapshot, remember: bool = False) -> None:
        """`remember` the address of every record, for `prune`."""
        self._base, self._images = base, base.images
        self._known = Known(base.images)
        self._captions = CaptionChanges(base.texts)
        self._items: dict[int, _Item] = {}  # by row
        self._shown = np.zeros(int(base.images.live().max(initial=-1)) + 1, np.bool_)
        self._seen: set[int] | None = set() if remember else None
        self._unread: list[str] = []  # folders and shards, whose pictures may be there all the same
        self.known_records = self.changed = self.removed = 0
        self.other_ids, self.other_id = 0, ""  # pictures that are there and have another id now, and the first of them
        self.rejects: set[tuple[str, str]] = set()
        self._rejected = {uri for uri, _ in base.rejects()}
        self.mended: set[str] = set()  # of these, what is no longer to be rejected

    @property
    def unchanged(self) -> int:
        return len(self._images) - self.changed - self.removed

    def item(self, row: int) -> _Item:
        """A picture of the base, to be changed."""
        if row not in self._items:
            item = self._items[row] = _Item(self._images.take([row]).to_pylist()[0])
            if self._shown[row]:  # all that was said of it so far is what is stored, so it was forgotten
                item.told = {place: [item.as_stored(place)] for place in item.places}
        return self._items[row]

    def fresh(self, records: Iterator[Record]) -> Generator[Record, None, None]:
        """The records whose bytes the index does not have. Of the others it is noted what they say."""
        readers = ThreadPoolExecutor(cores(), thread_name_prefix="hasher")
        ahead: deque[tuple[Record, Future[str | None]]] = deque()
        try:
            for record in records:
                ahead.append((record, readers.submit(_digest, record)))
                if len(ahead) >= _AHEAD:
                    yield from self._sorted_out(*ahead.popleft())
            while ahead:
                yield from self._sorted_out(*ahead.popleft())
        finally:
            readers.shutdown(cancel_futures=True)  # the web may take its time

    def _sorted_out(self, record: Record, digest: Future[str | None]) -> Iterator[Record]:
        if self._seen is not None:
            self._seen.add(_key(record.uri))
        sha256 = digest.result()
        if sha256 is None and record.uri.endswith(("/", ".tar")):
            self._unread.append(record.uri)
        row = None if sha256 is None else self._known.with_content(sha256)
        if row is None:
            yield record
            return
        self.known_records += 1
        if record.uri in self._rejected and all(len(text) <= MAX_CAPTION for text in record.captions):
            self.mended.add(record.uri)
        item = self.item(row)
        self._shown[row] = True
        item.told.setdefault(record.uri, []).append(record)
        if record.id not in (None, item.stored["id"]) and record.uri == item.stored["uri"]:
            self.other_ids += 1
            self.other_id = self.other_id or f"such as {item.stored['id']!r}, which is {record.id!r} now"
        if record.uri not in item.places:
            item.places.append(record.uri)
            if (before := self._known.at(record.uri)) is not None and before != row:
                self._leave(before, record.uri)
        if item.all_told and item.settled() == item.stored:
            del self._items[row]

    def _leave(self, row: int, uri: str) -> None:
        """This picture is no longer found at this address."""
        item = self.item(row)
        item.places = [place for place in item.places if place != uri]

    def take_in(self, bench: Workbench, parts: int, work: Work, writer: SnapshotWriter) -> None:
        """Note what becomes of the base by the pictures that were encoded; tell the writer of those that were not."""
        for rows, good in encoded(bench, parts, work):
            for uri, reason in rejects(rows):
                writer.add_reject(uri, reason)
                self.rejects.add((uri, reason))
            for row in good:
                for uri in (row["uri"], *row["duplicate_uris"]):
                    if (before := self._known.at(uri)) is not None:
                        self._leave(before, uri)
                self._make_way(row["id"])
                self._captions.say(row["captions"], row["id"])

    def _make_way(self, id: str) -> None:
        """Another picture has this id from now on."""
        try:
            row = self._images.row_of(id)
        except UnknownId:
            return
        item = self.item(row)
        sha256 = item.stored["sha256"]
        if self._shown[row] and sha256 and sha256[:16] != id:
            item.id = sha256[:16]
        else:
            item.places = []

    def prune(self, foreign: str | None) -> None:
        """Take away what this corpus had and has no longer."""
        live = self._images.live()
        columns = [name for name in self._images.schema.names if name in ("uri", "duplicate_uris")]
        for start in range(0, len(live), _BATCH):
            rows = live[start : start + _BATCH].tolist()
            for row, at in zip(rows, self._images.take(rows, columns).to_pylist(), strict=True):
                for uri in (at["uri"], *(at.get("duplicate_uris") or ())):
                    if self._is_gone(uri, foreign):
                        self._leave(row, uri)
        self.mended.update(uri for uri in self._rejected if self._is_gone(uri, foreign))

    def _is_gone(self, uri: str, foreign: str | None) -> bool:
        assert self._seen is not None
        is_there = _key(uri) in self._seen or uri.startswith(tuple(self._unread))
        alone = foreign is None and not self._base.manifest.sources  # then addresses of the web are this corpus' too
        return not is_there and (alone or _is_of(uri, foreign))

    def settle(self, schema: MetadataSchema) -> None:
        """Compare with the base: what is as it was is forgotten, the schema sees what is not."""
        for row, item in list(self._items.items()):
            if not item.places:
                self.removed += 1
            elif (now := item.settled()) == item.stored:
                del self._items[row]
            else:
                self.changed += 1
                schema.see(now["metadata"])
        schema.forget_empty()

    def write(self, writer: SnapshotWriter, encoder: Encoder | None, schema: MetadataSchema) -> None:
        """Remove and write anew what has changed of the base, and the captions."""
        writer.remove_images(list(self._items))
        anew = []
        for row, item in self._items.items():
            self._captions.unsay(item.stored["captions"], item.stored["id"])
            if item.places:
                anew.append((row, item.settled()))
                self._captions.say(anew[-1][1]["captions"], item.id)
        for start in range(0, len(anew), _BATCH):
            rows = [row for row, _ in anew[start : start + _BATCH]]
            batch = image_batch([item for _, item in anew[start : start + _BATCH]], schema)
            writer.add_images(batch, self._images.vectors(rows), [self._base.thumbnail(row) for row in rows])
        self._captions.write(writer, encoder.encode_texts if encoder is not None else _nothing_new)


def encoded(bench: Workbench, parts: int, work: Work) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """The rows of each part, and of them the pictures that are new."""
    place = 0
    for number in range(parts):
        rows = finished(bench, number)
        good = good_pictures(rows, work.ledger, place)
        place += len(good)
        yield rows, good


class _Item:
    """A picture of the base: what is `stored` of it, the `places` where it is found now, what is `told` of it there.

    Without places it is gone.
    """

    def __init__(self, columns: dict[str, Any]) -> None:
        own = {name: columns.pop(name, None) for name in OWN}
        self.places: list[str] = list(dict.fromkeys([own["uri"], *(own["duplicate_uris"] or ())]))
        self.stored = {**own, "duplicate_uris": self.places[1:], "captions": own["captions"] or [], "metadata": columns}
        self.told: dict[str, list[Record]] = {}
        self.id: str = own["id"]

    @property
    def all_told(self) -> bool:
        """Whether this corpus says all there is to say."""
        return all(place in self.told for place in self.places)

    def as_stored(self, place: str) -> Record:
        """A record that says of it what is stored."""
        captions, metadata = tuple(self.stored["captions"]), self.stored["metadata"]
        offset, length = self.stored["offset"], self.stored["length"]
        return Record(place, bytes, captions=captions, metadata=metadata, offset=offset, length=length)

    def settled(self) -> dict[str, Any]:
        """What is to be stored of it, in the form of `stored`."""
        said = [text for place in self.told for record in self.told[place] for text in record.captions]
        said = [text for text in said if len(text) <= MAX_CAPTION]
        uri, *more = self.places
        captions = said if self.all_told else self.stored["captions"] + said
        now = {
            **self.stored,
            "id": self.id,
            "uri": uri,
            "duplicate_uris": more,
            "captions": list(dict.fromkeys(captions)),
        }
        if uri in self.told:
            first = self.told[uri][0]
            metadata = dict(self.stored["metadata"])
            for column, value in as_columns(first.metadata).items():
                fitting = converted(value, metadata.get(column))
                if fitting is not None or column in metadata:
                    metadata[column] = fitting
            now |= {"metadata": metadata, "offset": first.offset, "length": first.length}
        return now


def _digest(record: Record) -> str | None:
    """SHA-256 of a record's bytes in hex; None where they cannot be read, which building it will say."""
    try:
        return hashlib.sha256(record.read()).hexdigest()
    except (OSError, ValueError, MemoryError):
        return None


def _is_of(uri: str, foreign: str | None) -> bool:
    """Whether an address is one of the corpus: with its place, where that is not the index' own."""
    if foreign is not None:
        return uri.startswith(f"{foreign.rstrip('/')}/")
    return not is_remote(uri) and not os.path.isabs(uri)


def _key(uri: str) -> int:
    return int.from_bytes(hashlib.blake2b(uri.encode(), digest_size=8).digest(), "big")


def _nothing_new(texts: list[str]) -> NDArray[np.float32]:
    raise AssertionError(f"removing pictures gives new captions: {texts[:3]}")
