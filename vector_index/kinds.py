"""FAISS index kinds: which are supported, which to choose, how to build one and measure its recall."""

import importlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from vector_index.errors import BadIndexType
from vector_index.manifest import IndexStamp, RecallPoint

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]

AUTO: Final = "auto"
FLAT_ROWS: Final = 50_000
CHUNK_ROWS: Final = 65_536
EF_SEARCH: Final = (16, 32, 64, 128, 256, 512)
EF_CONSTRUCTION: Final = 40
RECALL_QUERIES: Final = 200
RECALL_K: Final = 10
_TIE: Final = 1e-6  # scores this close are equal but for rounding
_HNSW: Final = re.compile(r"HNSW(?P<m>\d{1,3})(?P<storage>,SQfp16|,SQ8)?")

log = logging.getLogger(__name__)


def load_faiss() -> Any:
    """Import FAISS when it is first needed: it takes a while, and a program may never need it."""
    return importlib.import_module("faiss")


def choose_index_type(n: int) -> str:
    """Return the index type that "auto" stands for at `n` rows: exact while that is fast, else a graph."""
    return "Flat" if n <= FLAT_ROWS else "HNSW32,SQfp16"


def check_index_type(kind: str) -> None:
    """Check that an index type is supported.

    Raises:
        BadIndexType: it is not; the message lists those that are.
    """
    match = _HNSW.fullmatch(kind)
    if kind not in (AUTO, "Flat") and not (match and 4 <= int(match["m"]) <= 128):
        allowed = "auto, Flat, HNSW<M>, HNSW<M>,SQfp16 or HNSW<M>,SQ8, with M from 4 to 128"
        raise BadIndexType(f"index type {kind!r} is not supported: use {allowed}")


def build_index(kind: str, vectors: Floats, queries: Sequence[Floats], target_recall: float) -> tuple[Any, IndexStamp]:
    """Build a FAISS inner-product index and, unless it is exact, choose its efSearch.

    Args:
        kind: a supported index type, or "auto".
        vectors: unit float32 (n, dim), typically a memory map; read in chunks. An empty one always gets "Flat".
        queries: sets of unit float32 (q, dim) on each of which the target is to be reached.
        target_recall: of the smallest efSearch to choose; the largest is taken, with a warning, if none reaches it.
    """
    faiss = load_faiss()
    n, dim = vectors.shape
    if kind == AUTO or n == 0:
        kind = choose_index_type(n)
    index = faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
    if hnsw := is_hnsw(index):
        index.hnsw.efConstruction = EF_CONSTRUCTION
    if not index.is_trained:
        index.train(evenly(vectors, CHUNK_ROWS))
    for start in range(0, n, CHUNK_ROWS):
        index.add(np.ascontiguousarray(vectors[start : start + CHUNK_ROWS]))
    if not hnsw:
        return index, IndexStamp(kind=kind)

    curve = recall_curve(index, vectors, queries)
    chosen = next((point for point in curve if point.recall_at_10 >= target_recall), curve[-1])
    if chosen.recall_at_10 < target_recall:
        log.warning("%s reaches recall@10 %.3f, short of %.3f", kind, chosen.recall_at_10, target_recall)
    parameters = {
        "efSearch": chosen.ef_search,
        "M": int(_HNSW.fullmatch(kind)["m"]),  # type: ignore[index]
        "efConstruction": EF_CONSTRUCTION,
    }
    return index, IndexStamp(kind=kind, parameters=parameters, recall=chosen.recall_at_10, recall_curve=curve)


def recall_curve(index: Any, vectors: Floats, queries: Sequence[Floats]) -> list[RecallPoint]:
    """Measure recall@10 at each efSearch of the ladder: the worst of those on the several sets of queries.

    A row counts as found if its true score is no less than that of the last exact hit. Counting ids instead would
    call one of two equal captions wrong.
    """
    k = min(RECALL_K, len(vectors))
    last_exact = [exact_scores(each, vectors, k)[:, -1:] for each in queries]

    def recall(ef_search: int, each: Floats, last: Floats) -> float:
        _, rows = search(index, each, k, ef_search)
        scores = np.einsum("qd,qkd->qk", each, vectors[np.maximum(rows, 0)])
        return float(np.mean((rows >= 0) & (scores >= last - _TIE)))

    sets = list(zip(queries, last_exact, strict=True))
    return [RecallPoint(ef_search=ef, recall_at_10=min(recall(ef, *each) for each in sets)) for ef in EF_SEARCH]


def exact_scores(queries: Floats, vectors: Floats, k: int) -> Floats:
    """Return the `k` highest inner products of each query, descending, float32 (q, k); reads vectors in chunks."""
    faiss = load_faiss()
    best = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(vectors), CHUNK_ROWS):
        chunk = np.ascontiguousarray(vectors[start : start + CHUNK_ROWS])
        scores, _ = faiss.knn(queries, chunk, min(k, len(chunk)), metric=faiss.METRIC_INNER_PRODUCT)
        best = -np.sort(-np.hstack([best, scores]), axis=1)[:, :k]
    return best


def search(index: Any, vectors: Floats, k: int, ef_search: int, selector: Any = None) -> tuple[Floats, Ints]:
    """Search an index, an HNSW one at `ef_search`: float32 scores descending and int64 rows, both (q, k).

    `selector`, a faiss.IDSelector, keeps the search to some rows. Both go with the call, not into the index, so that
    threads may search one index with different ones.
    """
    faiss = load_faiss()
    params = None
    if is_hnsw(index):
        params = faiss.SearchParametersHNSW(efSearch=ef_search, sel=selector)
    elif selector is not None:
        params = faiss.SearchParameters(sel=selector)
    scores, rows = index.search(vectors, k, params=params)
    scores[rows < 0] = -np.inf
    return scores, rows


def is_hnsw(index: Any) -> bool:
    """Tell whether an index is a graph, with its vectors in `index.storage`."""
    return hasattr(index, "hnsw")


def exact_storage(index: Any) -> Any:
    """Return the index that compares a query with every vector: of a graph its storage, else the index itself.

    The storage belongs to the index, which must be kept alive beside it.
    """
    return load_faiss().downcast_index(index.storage) if is_hnsw(index) else index


def read_index(path: Path) -> Any:
    """Open a FAISS index in a memory map. Flat, HNSW and both scalar-quantised storages can be searched so.

    Raises:
        RuntimeError: FAISS cannot read the file.
    """
    faiss = load_faiss()
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def evenly(vectors: Floats, count: int) -> Floats:
    """Return up to `count` of the vectors, evenly spread, as a contiguous array in memory."""
    n = len(vectors)
    return np.ascontiguousarray(vectors[np.linspace(0, n - 1, min(n, count)).astype(np.int64)])
