"""An index in files that others read: what clip-retrieval's inference writes, or plain Parquet."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dual_encoder.files import staged
from indexer.build import Progress
from indexer.embeddings import MARK, VECTOR, Mark
from indexer.ledger import text_digest
from vector_index import Collection, IndexDirectory, Snapshot

Format = Literal["clip-retrieval", "parquet"]
FORMATS: tuple[Format, ...] = ("clip-retrieval", "parquet")
_CHUNK = 8192  # rows in memory, and in a row group


@dataclass(frozen=True)
class ExportReport:
    """What was written; `texts` is the number of captions' vectors, `bytes` of all files together."""

    out: str
    images: int
    texts: int
    bytes: int
    seconds: float


def export_index(
    index: str | Path,
    out: str | Path,
    *,
    format: Format = "clip-retrieval",
    shard_rows: int = 1_000_000,
    progress: Callable[[Progress], None] | None = None,
) -> ExportReport:
    """Write the live rows of the live snapshot to the folder `out`, which appears when it is whole.

    clip-retrieval: img_emb/img_emb_0.npy (float16), metadata/metadata_0.parquet, a new number every `shard_rows`
    pictures; text_emb/text_emb_0.npy where every picture's first caption has a vector, and only then.
    parquet: images.parquet and, where there are captions with vectors, texts.parquet, with a column `vector` (float32).

    Memory holds some thousand rows and 16 bytes for each caption.

    Raises IndexNotFound; ValueError: another format, shard_rows below 1, `out` is there and not an empty folder.
    """
    began = time.monotonic()
    out = Path(out)
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    if shard_rows < 1:
        raise ValueError(f"shard_rows must be at least 1, got {shard_rows}")
    if out.exists() and not (out.is_dir() and next(out.iterdir(), None) is None):
        raise ValueError(f"{out} is there already and is not an empty folder")
    with IndexDirectory(index).open() as snapshot, staged(out) as folder:
        work = _Export(snapshot, folder, format, progress)
        texts = work.parquet() if format == "parquet" else work.clip_retrieval(shard_rows)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        images = len(snapshot.images)
    return ExportReport(str(out), images, texts, size, time.monotonic() - began)


class _Export:
    def __init__(
        self, snapshot: Snapshot, folder: Path, format: Format, progress: Callable[[Progress], None] | None
    ) -> None:
        self._snapshot, self._folder, self._progress = snapshot, folder, progress
        added = ["image_path", "caption"] if format == "clip-retrieval" else [VECTOR]
        manifest = snapshot.manifest
        mark = Mark(source=manifest.source, model=manifest.model, added=added)
        self._mark: dict[Any, Any] = {MARK: mark.model_dump_json()}
        taken = {*snapshot.images.schema.names, *added}
        self._names: dict[str, str] = {}  # of the index' columns, in the files
        for name in snapshot.images.schema.names:
            other = name
            while other in added or (other != name and other in taken):
                other = f"meta_{other}"
            self._names[name] = other

    def parquet(self) -> int:
        images, texts = self._snapshot.images, self._snapshot.texts
        with self._writer("images.parquet", [*self._fields(), _vector(images.dim)]) as writer:
            live = images.live()
            for rows in self._chunks(live, 0, len(live)):
                writer.write_batch(self._batch(writer.schema, rows, {VECTOR: _column(images.vectors(rows))}))
        if not len(texts):
            return 0
        live = texts.live()
        with self._writer("texts.parquet", [*texts.schema, _vector(texts.dim)]) as writer:
            for start in range(0, len(live), _CHUNK):
                rows = live[start : start + _CHUNK]
                columns = {**_columns(texts, rows), VECTOR: _column(texts.vectors(rows))}
                writer.write_batch(pa.RecordBatch.from_pydict(columns, writer.schema))
        return len(live)

    def clip_retrieval(self, shard_rows: int) -> int:
        images, texts = self._snapshot.images, self._snapshot.texts
        for name in ("img_emb", "text_emb", "metadata"):
            (self._folder / name).mkdir()
        has_captions = "captions" in images.schema.names
        known = _TextRows(texts) if has_captions and len(texts) else None
        fields = [pa.field("image_path", pa.string()), pa.field("caption", pa.string()), *self._fields()]
        live = images.live()
        shards = -(-len(live) // shard_rows)
        for number in range(shards):
            name = str(number).zfill(len(str(shards - 1)))
            start, stop = number * shard_rows, min((number + 1) * shard_rows, len(live))
            with (
                self._writer(f"metadata/metadata_{name}.parquet", fields) as writer,
                _npy(self._folder / f"img_emb/img_emb_{name}.npy", stop - start, images.dim) as pictures,
                _npy(self._folder / f"text_emb/text_emb_{name}.npy", stop - start, images.dim) as said,
            ):
                for rows in self._chunks(live, start, stop):
                    table = images.take(rows, ["uri", *(["captions"] if has_captions else [])]).to_pydict()
                    captions = [(given or [None])[0] for given in table.get("captions", [None] * len(rows))]
                    more = {"image_path": pa.array(table["uri"]), "caption": pa.array(captions, pa.string())}
                    writer.write_batch(self._batch(writer.schema, rows, more))
                    pictures(images.vectors(rows))
                    found = known.rows(captions) if known is not None else None
                    if found is None:
                        known = None
                    else:
                        said(texts.vectors(found))
        if known is None:
            shutil.rmtree(self._folder / "text_emb")
            return 0
        return len(live)

    def _chunks(self, live: NDArray[np.int64], start: int, stop: int) -> Iterator[NDArray[np.int64]]:
        """The rows `start` to `stop` of those that are live, some at a time."""
        for first in range(start, stop, _CHUNK):
            last = min(first + _CHUNK, stop)
            yield live[first:last]
            if self._progress:
                self._progress(Progress(last, len(live)))

    def _fields(self) -> list[pa.Field[Any]]:
        schema = self._snapshot.images.schema
        return [schema.field(name).with_name(other) for name, other in self._names.items()]

    def _batch(self, schema: pa.Schema, rows: NDArray[np.int64], more: dict[str, Any]) -> pa.RecordBatch:
        columns = {self._names[name]: column for name, column in _columns(self._snapshot.images, rows).items()}
        return pa.RecordBatch.from_pydict({**columns, **more}, schema)

    def _writer(self, name: str, fields: list[pa.Field[Any]]) -> Any:
        return pq.ParquetWriter(self._folder / name, pa.schema(fields, self._mark), compression="zstd")


class _TextRows:
    """Captions -> their rows, in 16 bytes for each."""

    def __init__(self, texts: Collection) -> None:
        live = texts.live()
        keys = [np.empty(0, np.uint64)]
        for start in range(0, len(live), _CHUNK):
            keys.append(_keys(texts.take(live[start : start + _CHUNK], ["text"]).to_pydict()["text"]))
        every = np.concatenate(keys)
        order = np.argsort(every, kind="stable")
        self._keys, self._rows = every[order], live[order]

    def rows(self, texts: list[str | None]) -> NDArray[np.int64] | None:
        """The rows of these captions, None where one is missing or unknown."""
        if None in texts:
            return None
        keys = _keys([text for text in texts if text is not None])
        places = np.searchsorted(self._keys, keys)
        if np.any(places == len(self._keys)) or np.any(self._keys[places] != keys):
            return None
        return self._rows[places]


def _keys(texts: list[str]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(map(text_digest, texts)), np.uint64)


@contextmanager
def _npy(path: Path, rows: int, dim: int) -> Iterator[Callable[[NDArray[np.float32]], None]]:
    """A float16 .npy of this shape, to be given its rows in order. A map would end the process on a full disk."""
    with path.open("wb") as file:
        head = {"descr": "<f2", "fortran_order": False, "shape": (rows, dim)}
        np.lib.format.write_array_header_1_0(file, head)

        def write(vectors: NDArray[np.float32]) -> None:
            file.write(vectors.astype("<f2").tobytes())

        yield write


def _columns(collection: Collection, rows: NDArray[np.int64]) -> dict[str, Any]:
    table = collection.take(rows)
    return {name: table[name].combine_chunks() for name in table.schema.names}


def _vector(dim: int) -> pa.Field[Any]:
    return pa.field(VECTOR, pa.list_(pa.float32(), dim))


def _column(vectors: NDArray[np.float32]) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1])
