"""FAISS index kinds: which strings are taken, what an index is made of, how it is searched."""

import importlib
import re
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from vector_index.errors import BadIndexType

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]

AUTO: Final = "auto"
FLAT_ROWS: Final = 50_000
CHUNK_ROWS: Final = 65_536
_BLOCK: Final = 1 << 22  # bytes read at a time
_LARGEST_M: Final = 128
_LARGEST_NLIST: Final = 1 << 20
# Queries from which on a product of matrices compares them with all vectors: 10 in a third of the time that FAISS 1.15
# takes over one after the other, as it would below 128,000.
_BY_MATRIX: Final = 4
_NEIGHBOURS: Final = re.compile(r"HNSW(\d+)")
_NLIST: Final = re.compile(r"\bIVF(\d+)([kM]?)")
_PROJECTED: Final = re.compile(r"LeanVec\d+,IVF\d+(_HNSW\d*|\(.*\))?,PQ\d+x4fsr,Refine\(SQfp16\)")


def load_faiss() -> Any:
    """Import FAISS when it is first needed: it takes a while, and a program may never need it."""
    faiss = importlib.import_module("faiss")
    faiss.cvar.distance_compute_blas_threshold = _BY_MATRIX
    return faiss


def check_index_type(kind: str, dim: int) -> None:
    """Check that "auto" or a string of `faiss.index_factory` gives an index that can serve vectors of `dim`.

    It must measure inner products, take search parameters or be compared whole, and give its vectors back.

    Raises:
        BadIndexType: it does not; the message says why.
    """
    if kind != AUTO:
        new_index(kind, dim)


def new_index(kind: str, dim: int) -> Any:
    """Make an empty FAISS index.

    Raises:
        BadIndexType: as `check_index_type` says.
    """
    faiss = load_faiss()
    # Before it is made: a hundred million empty lists take long and much memory.
    if any(
        int(count) * {"": 1, "k": 1 << 10, "M": 1 << 20}[unit] > _LARGEST_NLIST for count, unit in _NLIST.findall(kind)
    ):
        raise BadIndexType(f"index type {kind!r}: at most {_LARGEST_NLIST:,} lists are allowed")
    if "LeanVec" in kind and not is_projected(kind):
        known = "LeanVec256,IVF4096,PQ128x4fsr,Refine(SQfp16)"
        raise BadIndexType(f"index type {kind!r}: LeanVec goes with lists and residual codes, as in {known}")
    try:
        index = faiss.index_factory(dim, kind.replace("LeanVec", "PCA"), faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, ValueError) as error:
        known = "auto, Flat, HNSW32,SQ8, IVF4096,RaBitQfs,Refine(SQfp16) and the like"
        reason = re.sub(r".*? at \S+:\d+: |Error: ", "", re.sub(r"\s+", " ", str(error)))[:200]
        raise BadIndexType(f"index type {kind!r}: FAISS cannot make it at dim {dim} ({reason}); use {known}") from None
    core = core_of(index)
    if any(not 4 <= int(m) <= _LARGEST_M for m in _NEIGHBOURS.findall(kind)):
        raise BadIndexType(f"index type {kind!r}: M must be from 4 to {_LARGEST_M}")
    if is_refined(index) and not isinstance(storage_of(index), faiss.IndexFlatCodes):
        raise BadIndexType(f"index type {kind!r}: refine with Flat, SQfp16, SQ8 and the like")
    if not is_refined(index) and (core is not index or isinstance(core, faiss.IndexFastScan | faiss.IndexIVFFastScan)):
        raise BadIndexType(f"index type {kind!r} does not give its vectors back; add ,Refine(SQfp16)")
    if not (is_refined(index) or is_hnsw(core) or is_ivf(core) or isinstance(index, faiss.IndexFlatCodes)):
        raise BadIndexType(f"index type {kind!r}: a {type(index).__name__} cannot be searched with a filter")
    return index


def is_projected(kind: str) -> bool:
    """Tell whether queries and vectors are projected each in their own way before codes are compared."""
    return _PROJECTED.fullmatch(kind) is not None


def is_refined(index: Any) -> bool:
    """Tell whether candidates of one index are compared anew with better vectors."""
    return hasattr(index, "refine_index")


def is_hnsw(index: Any) -> bool:
    """Tell whether an index is a graph, with its vectors in `index.storage`."""
    return hasattr(index, "hnsw")


def is_ivf(index: Any) -> bool:
    """Tell whether an index has inverted lists."""
    return hasattr(index, "invlists")


def base_of(index: Any) -> Any:
    """Return the index whose candidates are refined, or the index itself. It belongs to `index`."""
    return load_faiss().downcast_index(index.base_index) if is_refined(index) else index


def core_of(index: Any) -> Any:
    """Return the graph or the lists within refinement and transform. It belongs to `index`."""
    faiss = load_faiss()
    base = base_of(index)
    return faiss.downcast_index(base.index) if isinstance(base, faiss.IndexPreTransform) else base


def storage_of(index: Any) -> Any:
    """Return the index that has every vector as well as it is kept: that of the refinement, of the graph, or itself.

    It belongs to `index`, which must be kept alive beside it.
    """
    faiss = load_faiss()
    if is_refined(index):
        return faiss.downcast_index(index.refine_index)
    return faiss.downcast_index(index.storage) if is_hnsw(index) else index


def search_all(index: Any, vectors: Floats, k: int, selector: Any = None) -> tuple[Floats, Ints]:
    """Compare every vector of a storage, or those that a faiss.IDSelector keeps: scores and rows as of `search`."""
    faiss = load_faiss()
    if is_ivf(index):
        params = faiss.IVFSearchParameters(nprobe=index.nlist, sel=selector)
    else:
        params = faiss.SearchParameters(sel=selector) if selector is not None else None
    return search(index, vectors, k, params)


def search_rows(storage: Any, vectors: Floats, k: int, rows: Ints) -> tuple[Floats, Ints]:
    """Compare the given rows of a storage: scores and rows as of `search`, k <= len(rows).

    They are gathered first, so that the cost is that of the rows, not of the whole collection.
    """
    faiss = load_faiss()
    best = np.empty((len(vectors), 0), np.float32)
    found = np.empty((len(vectors), 0), np.int64)
    step = CHUNK_ROWS // 4
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        gathered = storage.reconstruct_batch(some)
        scores, places = faiss.knn(vectors, gathered, min(k, len(some)), metric=faiss.METRIC_INNER_PRODUCT)
        best, found = np.hstack([best, scores]), np.hstack([found, some[places]])
        order = np.argsort(-best, axis=1, kind="stable")[:, :k]
        best, found = np.take_along_axis(best, order, 1), np.take_along_axis(found, order, 1)
    return best, found


def search(index: Any, vectors: Floats, k: int, params: Any = None) -> tuple[Floats, Ints]:
    """Search with faiss.SearchParameters: float32 scores, descending, and int64 rows, (q, k); -inf and -1 for none."""
    scores, rows = index.search(vectors, k, params=params)
    scores[rows < 0] = -np.inf
    return scores, rows


def read_index(path: Path, held: int = 0) -> Any:
    """Open a FAISS index in a memory map: codes, lists and vectors are read when they are needed.

    The first `held` bytes are what FAISS copies out of the map at once (fast-scan lists). They are read beforehand in
    large blocks, from a disk twenty times as fast as page by page.

    Raises:
        OSError, RuntimeError: the file cannot be read.
    """
    faiss = load_faiss()
    with path.open("rb", buffering=0) as file:
        block = bytearray(min(held, _BLOCK))
        while file.tell() < held and file.readinto(block):
            pass
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def exact_scores(queries: Floats, vectors: Floats, k: int) -> Floats:
    """Return the `k` highest inner products of each query, descending, float32 (q, k); reads vectors in chunks."""
    faiss = load_faiss()
    best = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(vectors), CHUNK_ROWS):
        chunk = np.ascontiguousarray(vectors[start : start + CHUNK_ROWS])
        scores, _ = faiss.knn(queries, chunk, min(k, len(chunk)), metric=faiss.METRIC_INNER_PRODUCT)
        best = -np.sort(-np.hstack([best, scores]), axis=1)[:, :k]
    return best


def evenly(vectors: Floats, count: int) -> Floats:
    """Return up to `count` of the vectors, evenly spread, as a contiguous array in memory."""
    return np.ascontiguousarray(vectors[evenly_spread(len(vectors), count)])


def evenly_spread(n: int, count: int) -> Ints:
    """Return up to `count` of the rows 0 … n - 1, evenly spread, int64."""
    return np.linspace(0, n - 1, min(n, count)).astype(np.int64)
