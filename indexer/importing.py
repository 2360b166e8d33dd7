"""A snapshot from embeddings that exist, so that nobody encodes twice."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from corpus import SourceError, files, place_of
from corpus.remote import is_remote
from dual_encoder.image import ImageError, open_image
from indexer.build import Progress, queries_of
from indexer.columns import Columns, evenly_spaced
from indexer.embeddings import VECTOR, Embeddings, Rows, find_embeddings, named, read_rows
from indexer.engine import Encoder
from indexer.import_ledger import ImportLedger
from indexer.ledger import text_digest
from indexer.rows import MAX_CAPTION
from vector_index import IndexDirectory, ModelStamp, SnapshotWriter

_COMPARED = 8  # pictures
_TRIED = 8  # pictures for each that is to be compared
_SAME = 0.95  # mean cosine; other decoders and precisions stay above, other models far below
_BATCH = 1024  # captions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportReport:
    """What came of an import. `cosine` is the mean over the pictures `compared` with the model, None without any."""

    snapshot: str
    images: int
    texts: int
    rejected: int
    compared: int
    cosine: float | None
    seconds: float


def import_index(
    folder: str | Path,
    out: str | Path,
    encoder: Encoder,
    *,
    source: str | Path | None = None,
    encode_captions: bool = False,
    checked: bool = True,
    index_type: str = "auto",
    target_recall: float = 0.95,
    progress: Callable[[Progress], None] | None = None,
) -> ImportReport:
    """Make a snapshot of the index directory `out` from vectors in files, and make it the live one.

    `folder` has what clip-retrieval's inference writes, or pairs X.npy and X.parquet, or images.parquet (and perhaps
    texts.parquet) with a column `vector`. Addresses of pictures are relative to `source`: without it to the place that
    an export names, else to `folder`. Captions get their vectors from there too; those that have none are encoded with
    `encode_captions`, else they stay with their pictures and cannot be found by themselves.

    Memory holds a few thousand rows; what is remembered of ids and captions lies in a scratch file in `out`.

    Raises SourceError: nothing to import, files that do not fit together or are not of this model, which is seen in
    up to 8 pictures encoded anew unless `checked` is False; IndexLocked. The old snapshot stays then.
    """
    began = time.monotonic()
    folder = Path(folder)
    found = find_embeddings(folder, encoder.dim)
    mark = found.mark
    schemas = [shard.schema for shard in found.shards]
    skip = mark.added if mark else [VECTOR] if found.shards[0].vectors is None else []
    columns = Columns(schemas, skip, exported=mark is not None)
    if columns.id is None and columns.uri is None:
        names = ", ".join(found.shards[0].schema.names)
        raise SourceError(f"{found.shards[0].table}: no column tells an id or an address; there are {names}")
    if columns.left_out:
        log.warning("%s: columns of bytes are left out: %s", folder, ", ".join(columns.left_out))
    root = place_of(source or (mark and mark.source) or folder)
    cosines = _compare(found, columns, root, encoder, folder) if checked else []

    directory = IndexDirectory(out)
    stamp = ModelStamp(reference=encoder.reference, fingerprint=encoder.fingerprint, dim=encoder.dim)
    with ExitStack() as stack:
        stack.enter_context(directory.lock())
        writer = stack.enter_context(
            SnapshotWriter(
                directory, model=stamp, source=root, index_type=index_type, target_recall=target_recall,
                text_queries=queries_of(encoder),
            )
        )  # fmt: skip
        # The next writer removes what is called so, should this one be killed.
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix=".tmp-", dir=directory.snapshots))
        ledger = stack.enter_context(closing(ImportLedger(Path(scratch))))
        work = _Import(columns, ledger, writer)
        total = sum(shard.rows for shard in found.shards)
        done = 0
        for shard in found.shards:
            for rows in read_rows(shard, encoder.dim, columns.left_out):
                work.take(rows, shard.table)
                done += rows.table.num_rows
                if progress:
                    progress(Progress(done, total))
        if not work.images:
            raise SourceError(f"no usable row in {folder}: {work.rejected} rejected, the first: {work.first_reject}")
        if found.texts is not None:
            for rows in read_rows(found.texts, encoder.dim):
                work.take_texts(rows, found.texts.table)
        if encode_captions:
            for texts in ledger.without_vector(_BATCH):
                ledger.give(zip(texts, encoder.encode_texts(texts), strict=True))
        texts_written = work.write_texts()
        snapshot = writer.publish()
    cosine = float(np.mean(cosines)) if cosines else None
    seconds = time.monotonic() - began
    return ImportReport(snapshot, work.images, texts_written, work.rejected, len(cosines), cosine, seconds)


class _Import:
    """Rows of files -> rows of a snapshot, and what is wrong with the others."""

    def __init__(self, columns: Columns, ledger: ImportLedger, writer: SnapshotWriter) -> None:
        self._columns, self._ledger, self._writer = columns, ledger, writer
        self.images = self.rejected = 0
        self.first_reject = ""

    def take(self, rows: Rows, path: Path) -> None:
        """Write pictures, and remember their captions."""
        table = rows.table
        with named(path):
            ids, uris = self._columns.texts(table, self._columns.id), self._columns.texts(table, self._columns.uri)
            captions = self._columns.captions_of(table)
        kept: list[int] = []
        known: dict[str, list[Any]] = {"id": [], "uri": [], "captions": []}
        given: list[tuple[str, NDArray[np.float32]]] = []
        taken: set[str] = set()
        for row, (id, uri) in enumerate(zip(ids, uris, strict=True)):
            where = uri or id or f"{path.name} row {rows.start + row}"
            id = id or (hashlib.sha256(uri.encode()).hexdigest()[:16] if uri else None)
            if row in rows.vectors.wrong:
                self._reject(where, rows.vectors.wrong[row])
            elif id is None:
                self._reject(where, "there is neither an id nor an address")
            elif id in taken or self._ledger.has_id(id):
                self._reject(where, f"id {id!r} belongs to another picture already")
            else:
                taken.add(id)
                kept.append(row)
                said = [text for text in captions[row] if len(text) <= MAX_CAPTION]
                for text in captions[row]:
                    if len(text) > MAX_CAPTION:
                        self._reject(where, f"a caption has {len(text):,} characters, more than {MAX_CAPTION:,}")
                for name, value in (("id", id), ("uri", uri or ""), ("captions", said)):
                    known[name].append(value)
                if rows.captions is not None and said and said[0] == captions[row][0]:
                    if row in rows.captions.wrong:
                        self._reject(where, f"of its caption {rows.captions.wrong[row]}")
                    else:
                        given.append((said[0], rows.captions.unit[row]))
        if kept:
            with named(path):
                batch = self._columns.images(table.take(pa.array(kept)), known)
            self._writer.add_images(batch, rows.vectors.unit[kept])
            self._ledger.note(zip(known["id"], known["captions"], strict=True))
            self._ledger.give(given)
        self.images += len(kept)

    def take_texts(self, rows: Rows, path: Path) -> None:
        """Vectors for captions of the pictures that have been written."""
        given = []
        with named(path):
            texts = self._columns.texts(rows.table, "text")
        for row, text in enumerate(texts):
            where = f"{path.name} row {rows.start + row}"
            if text is None:
                self._reject(where, "there is no text")
            elif row in rows.vectors.wrong:
                self._reject(where, rows.vectors.wrong[row])
            else:
                given.append((text.strip(), rows.vectors.unit[row]))
        for text in self._ledger.give(given):
            self._reject(f"{path.name}: {text[:200]}", "no picture has this caption")

    def write_texts(self) -> int:
        """Write the captions that have a vector; returns how many."""
        count = 0
        for captions in self._ledger.with_vector(_BATCH):
            texts, vectors, shown = zip(*captions, strict=True)
            columns = {
                "id": pa.array([text_digest(text).hex() for text in texts], pa.string()),
                "text": pa.array(texts, pa.string()),
                "image_ids": pa.array(shown, pa.list_(pa.string())),
            }
            self._writer.add_texts(pa.RecordBatch.from_pydict(columns), np.stack(vectors))
            count += len(texts)
        return count

    def _reject(self, where: str, reason: str) -> None:
        self._writer.add_reject(where, reason)
        self.rejected += 1
        self.first_reject = self.first_reject or f"{where}: {reason}"


def _compare(found: Embeddings, columns: Columns, root: str, encoder: Encoder, folder: Path) -> list[float]:
    """The cosines of vectors as they are given and as the model makes them. Raises SourceError for other models'."""
    if found.mark and found.mark.model.fingerprint != encoder.fingerprint:
        model = found.mark.model
        raise SourceError(
            f"{folder}: exported from an index of model {model.reference!r} ({model.fingerprint[:12]}), not of "
            f"{encoder.reference!r} ({encoder.fingerprint[:12]})"
        )
    cosines = []
    for vector, image in _samples(found, columns, root, encoder):
        pixels = encoder.prepare(image)[np.newaxis]
        cosines.append(float(encoder.encode_pixels(pixels)[0] @ vector))
    if cosines and np.mean(cosines) < _SAME:
        raise SourceError(
            f"{folder}: the embeddings are not of model {encoder.reference!r}: {len(cosines)} pictures that were "
            f"encoded anew have a mean cosine of {np.mean(cosines):.3f} with theirs, less than {_SAME}"
        )
    return cosines


def _samples(
    found: Embeddings, columns: Columns, root: str, encoder: Encoder
) -> Iterator[tuple[NDArray[np.float32], Image.Image]]:
    """Vectors and pictures that can be read, from shards far apart: of each its first rows are looked at."""
    chosen = evenly_spaced(len(found.shards), _COMPARED)
    each = -(-_COMPARED // len(chosen))
    left = _COMPARED
    for number in chosen:
        shard = found.shards[number]
        rows = next(read_rows(shard, encoder.dim, columns.left_out), None)
        if rows is None:
            continue
        with named(shard.table):
            uris = columns.texts(rows.table, columns.uri)
            places = [columns.texts(rows.table, name) for name in ("offset", "length")] if columns.is_exported else None
        wanted = min(each, left)
        for row in evenly_spaced(len(uris), each * _TRIED):
            uri = uris[row]
            if not wanted or uri is None or row in rows.vectors.wrong:
                continue
            offset, length = ((int(at) if (at := place[row]) else None) for place in places) if places else (None, None)
            if (image := _picture(root, uri, offset, length, max(encoder.image_size))) is not None:
                yield rows.vectors.unit[row], image
                wanted, left = wanted - 1, left - 1


def _picture(root: str, uri: str, offset: int | None, length: int | None, side: int) -> Image.Image | None:
    """A picture of this machine, None where there is none."""
    if is_remote(uri) or is_remote(root):
        return None
    name = uri if length is None else files.shard_of(uri)
    try:
        return open_image(files.read_local(Path(os.path.join(root, name)), offset, length), side).image
    except (OSError, ValueError, ImageError):
        return None
