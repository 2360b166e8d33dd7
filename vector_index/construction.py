"""Vectors -> the file of a FAISS index, in memory that does not grow with the vectors that refine."""

import logging
import os
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np

from vector_index import kinds
from vector_index.kinds import CHUNK_ROWS, Floats

EF_CONSTRUCTION: Final = 40
_POINTS_A_LIST: Final = 64  # that k-means sees; FAISS takes 256 by itself, and gains little by it
_TRAINING_ROWS: Final = 65_536  # the least that is seen, where there are as many
_MOST_TRAINING_ROWS: Final = 262_144  # half a gigabyte at dim 512
_FEW: Final = 256  # vectors; codes and centroids cannot be learnt from fewer
_REFINE_FP16: Final = "Refine(SQfp16)"

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
    few = _FEW if not kinds.new_index(kind, dim).is_trained else 1
    if n < max(few, kinds.lists_of(kind)):
        if n:
            log.warning("%d vectors are too few for %s: Flat is taken", n, kind)
        kind = "Flat"
    streamed = kind.endswith("," + _REFINE_FP16)
    index = kinds.new_index(kind, dim)
    if streamed:
        index = faiss.index_factory(dim, kind.removesuffix("," + _REFINE_FP16), faiss.METRIC_INNER_PRODUCT)
    core = kinds.core_of(index)
    if kinds.is_hnsw(core):
        core.hnsw.efConstruction = EF_CONSTRUCTION
    if not index.is_trained:
        wanted = max(_TRAINING_ROWS, _POINTS_A_LIST * kinds.lists_of(kind))
        index.train(kinds.evenly(vectors, min(wanted, _MOST_TRAINING_ROWS)))
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

    A scalar quantiser without its codes is written; their length, its last field, and they are put in afterwards.
    """
    faiss = kinds.load_faiss()
    n, dim = vectors.shape
    storage = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    storage.is_trained, storage.ntotal = True, n
    index = faiss.IndexRefine(base, storage)
    faiss.write_index(index, str(path))
    length, factor = struct.Struct("<Q"), struct.pack("<f", index.k_factor)
    with path.open("r+b") as file:
        file.seek(-length.size - len(factor), os.SEEK_END)
        if file.read() != length.pack(0) + factor:
            raise RuntimeError(f"{path}: this version of FAISS writes its refinement in another way")
        file.seek(-length.size - len(factor), os.SEEK_END)
        file.write(length.pack(2 * n * dim))
        for start in range(0, n, CHUNK_ROWS):
            file.write(np.ascontiguousarray(vectors[start : start + CHUNK_ROWS], dtype="<f2").data)
        file.write(factor)
