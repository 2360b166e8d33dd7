"""Vectors -> the file of a FAISS index, in memory that does not grow with the vectors that refine."""

import logging
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np

from vector_index import kinds
from vector_index.kinds import CHUNK_ROWS, Floats

EF_CONSTRUCTION: Final = 40
_POINTS_A_LIST: Final = 64  # that k-means sees; FAISS takes 256 by itself, and gains little by it
_TRAINING_ROWS: Final = 65_536  # the least that is seen, where there are as many
_REFINE_FP16: Final = "Refine(SQfp16)"
_NTOTAL_AT: Final = 8  # in a FAISS index's header: after its four letters and dim, an int32

log = logging.getLogger(__name__)


def write_index(kind: str, vectors: Floats, path: Path) -> str:
    """Build an index and write it.

    Args:
        kind: a string of `index_factory`.
        vectors: unit float32 (n, dim), typically a memory map; read in chunks.
        path: the file.

    Returns:
        The kind built: "Flat" where there are fewer vectors than lists, and nothing to learn from.

    Raises:
        BadIndexType: the kind is not supported.
    """
    faiss = kinds.load_faiss()
    n, dim = vectors.shape
    if kind != "Flat" and n < max(256, kinds.lists_of(kind)):
        log.info("%d vectors are too few for %s: Flat", n, kind)
        kind = "Flat"
    streamed = kind.endswith("," + _REFINE_FP16)
    index = kinds.new_index(kind, dim)
    if streamed:
        index = faiss.index_factory(dim, kind.removesuffix("," + _REFINE_FP16), faiss.METRIC_INNER_PRODUCT)
    core = kinds.core_of(index)
    if kinds.is_hnsw(core):
        core.hnsw.efConstruction = EF_CONSTRUCTION
    if not index.is_trained:
        index.train(kinds.evenly(vectors, max(_TRAINING_ROWS, _POINTS_A_LIST * kinds.lists_of(kind))))
    for start in range(0, n, CHUNK_ROWS):
        index.add(np.ascontiguousarray(vectors[start : start + CHUNK_ROWS]))
    if kinds.is_ivf(core) and not streamed and not kinds.is_refined(index):
        core.make_direct_map()  # without it the lists do not know which row is where
    if streamed:
        _write_refined(index, vectors, path)
    else:
        faiss.write_index(index, str(path))
    return kind


def _write_refined(base: Any, vectors: Floats, path: Path) -> None:
    """Write faiss.IndexRefine of `base` and of the vectors in fp16, which go from map to file and are never held.

    An empty scalar quantiser is written, and its two counts and its codes are put in place afterwards: its header has
    the number of rows, its last field is the length of its codes.
    """
    faiss = kinds.load_faiss()
    n, dim = vectors.shape
    storage = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    storage.is_trained = True
    tail = faiss.serialize_index(storage).tobytes()
    index = faiss.IndexRefine(base, storage)
    faiss.write_index(index, str(path))
    with path.open("r+b") as file:
        factor = struct.pack("<f", index.k_factor)
        file.seek(-len(tail) - len(factor), 2)
        if file.read() != tail + factor:
            raise RuntimeError(f"{path}: this version of FAISS writes its refinement in another way")
        file.seek(-len(tail) - len(factor), 2)
        rows, size = struct.pack("<q", n), struct.pack("<Q", 2 * n * dim)
        file.write(tail[:_NTOTAL_AT] + rows + tail[_NTOTAL_AT + len(rows) : -len(size)] + size)
        for start in range(0, n, CHUNK_ROWS):
            file.write(np.ascontiguousarray(vectors[start : start + CHUNK_ROWS], dtype="<f2").data)
        file.write(factor)
