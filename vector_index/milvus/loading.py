"""Loading a snapshot of an index directory into Milvus."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import numpy as np

from vector_index import kinds
from vector_index import snapshot as local
from vector_index.collection import Collection
from vector_index.errors import StoreUnavailable
from vector_index.kinds import Floats, Ints
from vector_index.manifest import CollectionStamp, IndexStamp, RecallPoint
from vector_index.milvus.collection import METRIC, MilvusCollection, limits_of
from vector_index.milvus.columns import MOST_BYTES, ROW, THUMBNAIL, VECTOR, add_fields, entities, fields_of
from vector_index.milvus.connection import Connection, load_pymilvus
from vector_index.milvus.snapshot import ABOUT, PART, PART_BYTES, Record, schema_text
from vector_index.tuning import (
    EF_SEARCH,
    ENOUGH,
    NPROBE,
    RECALL_K,
    RECALL_QUERIES,
    Queries,
    Target,
    choose,
    list_count,
    recall_of,
    widest,
)

Progress = Callable[[int, int], None]

AUTO: Final = "auto"
INDEX_TYPES: Final = (AUTO, "FLAT", "HNSW", "IVF_FLAT")  # in which scores are exact
PATIENCE: Final = 3_600  # seconds until an index is built and loaded; pymilvus would wait for ever for a float
_INSERT: Final = 60.0  # seconds until a batch is taken
_BATCH: Final = 500  # rows
_HNSW: Final = {"M": 32, "efConstruction": 200}
_TIE: Final = 1e-5  # scores this close are equal but for rounding, which is another here and there

log = logging.getLogger(__name__)


class Loading:
    """Makes the three collections that begin with `base`, whose rows are those of the snapshot that are not deleted."""

    def __init__(
        self, connection: Connection, base: str, index_type: str, thumbnails: bool, progress: Progress | None
    ) -> None:
        self._connection, self._base, self._index_type = connection, base, index_type
        self._thumbnails = thumbnails
        self._progress = progress or (lambda done, total: None)
        self._done = 0

    def run(self, snapshot: local.Snapshot) -> None:
        """Load everything, count it, measure the indexes, and write the record.

        Raises: as `MilvusStore.publish` says.
        """
        manifest = snapshot.manifest
        target = Target(manifest.target_recall)  # its milliseconds are not those that are measured here
        thumbnails = self._thumbnails and snapshot.has_thumbnails
        named = {"images": self._base, "texts": f"{self._base}_texts"}
        sources = {"images": snapshot.images, "texts": snapshot.texts}
        live = {kind: source.live() for kind, source in sources.items()}
        self._total = sum(map(len, live.values()))
        queries = {kind: _queries(source, live[kind]) for kind, source in sources.items() if len(live[kind])}
        stamps = {}
        for kind, source in sources.items():
            truths = {name: _Truth(each, own=name == kind) for name, each in queries.items()}
            pictures = snapshot if thumbnails and kind == "images" else None
            index = self._load(named[kind], source, live[kind], truths.values(), pictures, manifest.memory)
            loaded = MilvusCollection(self._connection, named[kind], source.schema, source.dim, len(live[kind]), index)
            if len(loaded) and (there := loaded.counted()) != len(loaded):
                raise StoreUnavailable(f"{loaded.name}: {there:,} rows are there of {len(loaded):,} that were loaded")
            if limits_of(index):
                points = {name: choose(_curve(loaded, truth), target) for name, truth in truths.items()}
                recall = min(point.recall_at_10 for point in points.values())
                parameters = {**index.parameters, **widest(points)}
                index = IndexStamp(kind=index.kind, parameters=parameters, recall=recall, queries=points)
            stamps[kind] = CollectionStamp(rows=len(live[kind]), index=index)
        record = Record(
            snapshot=snapshot.name,
            manifest=manifest.model_copy(update={**stamps, "files": {}}),
            schemas={kind: schema_text(source.schema) for kind, source in sources.items()},
            thumbnails=thumbnails,
        )
        self._write_record(record.to_json())

    def _load(
        self,
        name: str,
        source: Collection,
        live: Ints,
        truths: Iterable[_Truth],
        pictures: local.Snapshot | None,
        memory: int | None,
    ) -> IndexStamp:
        kind = self._index_type
        if kind == AUTO:
            kind = choose_kind(name, len(live), source.dim, memory)
        built = {"HNSW": _HNSW, "IVF_FLAT": {"nlist": list_count(max(len(live), 1))}}.get(kind, {})
        fields = fields_of(source.schema)
        if len(live) == 0:
            return IndexStamp(kind="FLAT")
        schema, types = _schema(source.dim), load_pymilvus().DataType
        add_fields(schema, fields, types)
        if pictures is not None:  # on disk until one is asked for
            schema.add_field(THUMBNAIL, types.VARCHAR, max_length=MOST_BYTES, nullable=True, mmap_enabled=True)
        self._connection.call("create_collection", name, schema=schema, consistency_level="Bounded", timeout=_INSERT)
        for start in range(0, len(live), _BATCH):
            rows = live[start : start + _BATCH]
            vectors = source.vectors(rows)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)  # as they were before they were rounded
            batch = [
                {ROW: number, VECTOR: vector, **entity}
                for number, (vector, entity) in enumerate(
                    zip(vectors, entities(source.take(rows), fields), strict=True), start
                )
            ]
            if pictures is not None:
                for entity, row in zip(batch, rows.tolist(), strict=True):
                    entity[THUMBNAIL] = _text(pictures.thumbnail(row))
            self._connection.call("insert", name, batch, timeout=_INSERT)
            if kind != "FLAT":
                for truth in truths:
                    truth.see(vectors)
            self._done += len(batch)
            self._progress(self._done, self._total)
        self._connection.call("flush", name, timeout=PATIENCE)
        self._index(name, fields["id"].name, wait=False, index_type="INVERTED")
        self._index(name, VECTOR, wait=kind != "FLAT", index_type=kind, metric_type=METRIC, params=built)
        self._connection.call("load_collection", name, timeout=PATIENCE)
        return IndexStamp(kind=kind, parameters=built)

    def _index(self, name: str, field: str | None, *, wait: bool, **options: Any) -> None:
        indexes = load_pymilvus().MilvusClient.prepare_index_params()
        indexes.add_index(field, **options)
        self._connection.call("create_index", name, indexes, timeout=PATIENCE, sync=wait)

    def _write_record(self, text: str) -> None:
        name = f"{self._base}_{ABOUT}"
        schema = _schema(2)  # a collection must have vectors
        schema.add_field(PART, load_pymilvus().DataType.VARCHAR, max_length=MOST_BYTES)
        self._connection.call("create_collection", name, schema=schema, consistency_level="Strong", timeout=_INSERT)
        parts = [text[start : start + PART_BYTES] for start in range(0, len(text), PART_BYTES)]
        rows = [{ROW: number, VECTOR: [0.0, 1.0], PART: part} for number, part in enumerate(parts)]
        self._connection.call("insert", name, rows, timeout=_INSERT)
        self._connection.call("flush", name, timeout=PATIENCE)
        self._index(name, VECTOR, wait=False, index_type="FLAT", metric_type=METRIC)
        self._connection.call("load_collection", name, timeout=PATIENCE)


def _schema(dim: int) -> Any:
    """A pymilvus schema of row numbers and vectors."""
    milvus = load_pymilvus()
    schema = milvus.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(ROW, milvus.DataType.INT64, is_primary=True)
    schema.add_field(VECTOR, milvus.DataType.FLOAT_VECTOR, dim=dim)
    return schema


def choose_kind(name: str, rows: int, dim: int, memory: int | None) -> str:
    """What "auto" stands for: all hold every vector in float32, so to save memory only the graph can be left out."""
    vectors, graph = rows * dim * 4, rows * _HNSW["M"] * 2 * 4
    if memory is not None and vectors > memory:
        log.warning("%s: %d vectors take %d bytes of Milvus' memory, more than %d", name, rows, vectors, memory)
    if rows <= kinds.FLAT_ROWS:
        return "FLAT"
    return "HNSW" if memory is None or vectors + graph <= memory else "IVF_FLAT"


def _text(thumbnail: bytes | None) -> str | None:
    """Base64, which Milvus has room for; a picture too large for that has none."""
    text = None if thumbnail is None else base64.b64encode(thumbnail).decode()
    return text if text is not None and len(text) <= MOST_BYTES else None


def _queries(source: Collection, live: Ints) -> Queries:
    """Some of the rows of a collection, numbered as they will be in Milvus."""
    places = kinds.evenly_spread(len(live), RECALL_QUERIES)
    vectors = source.vectors(live[places])
    return Queries(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), places)


class _Truth:
    """The scores of what exact search finds among the vectors seen. A query that is one of them is found anyway, and
    left out."""

    def __init__(self, queries: Queries, own: bool) -> None:
        self.vectors = queries.vectors
        self.rows = queries.rows if own else None
        self.best = np.full((len(queries.vectors), RECALL_K + own), -np.inf, np.float32)

    def see(self, vectors: Floats) -> None:
        scores = np.hstack([self.best, self.vectors @ vectors.T])
        self.best = -np.partition(-scores, self.best.shape[1] - 1, axis=1)[:, : self.best.shape[1]]


def _curve(loaded: MilvusCollection, truth: _Truth) -> Iterator[tuple[RecallPoint, float]]:
    """Recall@10 with each value of the index' one parameter, and its standard error. Milliseconds are those of the
    clock, of queries that are asked together. A row counts as found as in `tuning.recall_at`."""
    ((name, most),) = limits_of(loaded.index).items()
    k = min(truth.best.shape[1], len(loaded))
    worst = np.sort(truth.best, axis=1)[:, -k]
    for value in EF_SEARCH if name == "efSearch" else NPROBE:
        if value > most:
            return
        began = time.perf_counter()
        scores, rows = loaded.search(truth.vectors, k, params={name: value})
        ms = (time.perf_counter() - began) * 1e3 / len(rows)
        recall, error = recall_of((rows >= 0) & (scores >= worst[:, None] - _TIE), rows, truth.rows, k)
        yield RecallPoint(parameters={name: value}, recall_at_10=recall, ms=ms), error
        if recall >= ENOUGH:
            return
