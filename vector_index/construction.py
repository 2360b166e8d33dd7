"""Vectors -> the file of a FAISS index, in memory that does not grow with the vectors that refine."""

import errno
import logging
import os
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from vector_index import kinds, projection
from vector_index.kinds import CHUNK_ROWS, Floats, Ints

EF_CONSTRUCTION: Final = 40
_POINTS_A_LIST: Final = 64  # that k-means sees; FAISS takes 256 by itself, and gains little by it
_TRAINING_ROWS: Final = 65_536  # the least that is seen, where there are as many
_MOST_TRAINING_ROWS: Final = 262_144  # half a gigabyte at dim 512
_ITERATIONS: Final = 10
_ANY_POINTS: Final = {"min_points_per_centroid": 1, "max_points_per_centroid": _MOST_TRAINING_ROWS}
_MOST_COMPARED: Final = 2_048  # centroids that each vector is compared with; of more, those of _CELLS cells
_CELLS: Final = 8
_REFINED: Final = 16  # centroids that codes propose, compared as they are, for the one that is sought
_FOUND_AT_ONCE: Final = 8_192  # vectors: FAISS holds 32 × dim bytes of tables for each
_LISTS_REFINED: Final = 2.0  # lists that are compared with a query for each that is read
_FEW: Final = 256  # vectors; codes and centroids cannot be learnt from fewer

log = logging.getLogger(__name__)


def write_index(kind: str, vectors: Floats, path: Path, asked: Sequence[Floats] = ()) -> str:
    """Build an index and write it.

    Args:
        kind: a string that `kinds.new_index` takes.
        vectors: unit float32 (n, dim), typically a memory map; read in chunks.
        path: the file.
        asked: vectors such as will be asked with, beside those of the collection, float32 (q, dim) for each modality;
            a projection learns from them.

    Returns:
        The kind built: "Flat" where there are too few vectors to learn the kind's lists and codes from.

    Raises:
        BadIndexType: the kind is not supported.
    """
    n, dim = vectors.shape
    whole = kinds.new_index(kind, dim)
    if n < _least_vectors(whole):
        if n:
            log.warning("%d vectors are too few for %s: Flat is taken", n, kind)
        kind, whole = "Flat", kinds.new_index("Flat", dim)
    if kinds.is_projected(kind):
        _write_projected(whole, vectors, asked, path)
        return kind
    streamed = kind.endswith(",Refine(SQfp16)")
    index, core = kinds.base_of(whole) if streamed else whole, kinds.core_of(whole)
    if kinds.is_hnsw(core):
        core.hnsw.efConstruction = EF_CONSTRUCTION
    if not index.is_trained:
        index.train(_training_sample(vectors, core))
    for start in range(0, n, CHUNK_ROWS):
        index.add(np.ascontiguousarray(vectors[start : start + CHUNK_ROWS]))
    if kinds.is_ivf(core) and not kinds.is_refined(whole):
        core.make_direct_map()  # without it the lists do not know which row is where
    if streamed:
        _write_refined(index, vectors, path)
    else:
        _write(index, path)
    return kind


def _least_vectors(index: Any) -> int:
    """How many vectors an index can learn its lists and its codes from."""
    core = kinds.core_of(index)
    codes = getattr(kinds.storage_of(core), "pq", None)
    return max(
        1 if index.is_trained else _FEW,
        core.nlist if kinds.is_ivf(core) else 1,
        codes.ksub if codes is not None else 1,
    )


def _training_sample(vectors: Floats, core: Any) -> Floats:
    wanted = _POINTS_A_LIST * core.nlist if kinds.is_ivf(core) else 0
    return kinds.evenly(vectors, min(max(_TRAINING_ROWS, wanted), _MOST_TRAINING_ROWS))


def _write_projected(made: Any, vectors: Floats, asked: Sequence[Floats], path: Path) -> None:
    """Write lists of the vectors as they are, with codes of what their projections have beside their centroid's.

    Of `made`, an index as `kinds.new_index` makes it, the lists' quantiser is kept.
    """
    faiss = kinds.load_faiss()
    n, dim = vectors.shape
    lists = kinds.core_of(made)
    sample = _training_sample(vectors, lists)
    centroids, nearest = cluster(sample, lists.nlist)
    some = kinds.evenly(sample, _TRAINING_ROWS)
    places, mean = nearest(some), sample.mean(axis=0)
    moments = [projection.second_moment(each) for each in (sample, *asked)]
    learnt = projection.learn(np.mean(moments, axis=0), projection.second_moment(some - mean), lists.d, lists.pq.M)
    del sample

    def project(chunk: Floats) -> Floats:
        projected: Floats = (chunk - mean) @ learnt.vectors.T
        return projected

    projected = project(centroids)
    flat = faiss.IndexFlatIP(lists.d)
    flat.add(projected)
    # Fast-scan lists find the list of a vector themselves; what they can be made of is told.
    plain = faiss.IndexIVFPQ(flat, lists.d, lists.nlist, lists.pq.M, lists.pq.nbits, faiss.METRIC_INNER_PRODUCT)
    plain.by_residual = True
    plain.pq.train(project(some) - projected[places])
    plain.is_trained = True
    del some
    for start in range(0, n, CHUNK_ROWS):
        chunk = np.ascontiguousarray(vectors[start : start + CHUNK_ROWS])
        rows = np.arange(start, start + len(chunk))
        arrays = project(chunk), rows, nearest(chunk)
        plain.add_core(len(chunk), *map(faiss.swig_ptr, arrays))
    packed = faiss.IndexIVFPQFastScan(plain)
    del plain

    coarse = faiss.downcast_index(lists.quantizer)
    coarse.train(projected)
    coarse.add(projected)
    if kinds.is_refined(coarse):
        coarse.k_factor = _LISTS_REFINED
    packed.quantizer = coarse
    transform = faiss.LinearTransform(dim, lists.d, False)
    faiss.copy_array_to_vector(learnt.queries.ravel(), transform.A)
    transform.is_trained = True
    _write_refined(faiss.IndexPreTransform(transform, packed), vectors, path)


def cluster(sample: Floats, count: int) -> tuple[Floats, Callable[[Floats], Ints]]:
    """Learn `count` centroids of unit vectors, float32 (count, dim), and how to find the nearest of each vector.

    Spherical k-means in two levels: √count clusters, each of them divided by its share. It costs 2 √count comparisons a
    vector and iteration, not count.
    """
    faiss = kinds.load_faiss()
    dim = sample.shape[1]

    def learn(rows: Floats, k: int) -> Any:
        means = faiss.Kmeans(dim, k, niter=_ITERATIONS, spherical=True, **_ANY_POINTS)
        means.train(rows)
        return means

    upper = learn(sample, max(1, int(2 ** (np.log2(count) // 2))))
    of = upper.index.search(sample, 1)[1][:, 0]
    bounds = np.round(np.cumsum([0, *np.bincount(of, minlength=upper.k)]) * (count / len(sample))).astype(int)
    order = np.argsort(of, kind="stable")
    starts = np.searchsorted(of[order], np.arange(upper.k + 1))
    parts = [
        learn(np.ascontiguousarray(sample[order[starts[cell] : starts[cell + 1]]]), share).centroids
        for cell, share in enumerate(np.diff(bounds).tolist())
        if share
    ]
    centroids = np.vstack(parts)
    index = faiss.IndexFlatIP(dim)
    if count > _MOST_COMPARED and dim % 4 == 0:
        index = faiss.index_factory(dim, f"IVF{upper.k},PQ{dim // 4}x4fsr,RFlat", faiss.METRIC_INNER_PRODUCT)
        index.k_factor = _REFINED
        kinds.core_of(index).nprobe = _CELLS
        index.train(centroids)
    index.add(centroids)

    def nearest(vectors: Floats) -> Ints:
        starts = range(0, len(vectors), _FOUND_AT_ONCE)
        return np.concatenate([index.search(vectors[start : start + _FOUND_AT_ONCE], 1)[1][:, 0] for start in starts])

    return centroids, nearest


def _write(index: Any, path: Path) -> None:
    """Write an index. Raises OSError, where FAISS has a RuntimeError of several lines."""
    try:
        kinds.load_faiss().write_index(index, str(path))
    except RuntimeError as error:
        found = re.search(r"\(([^()]*)\)\s*$", str(error))
        raise OSError(errno.EIO, f"cannot be written: {found[1] if found else error}", str(path)) from None


def _write_refined(base: Any, vectors: Floats, path: Path) -> None:
    """Write faiss.IndexRefine of `base` and of the vectors in fp16, which go from map to file and are never held.

    A scalar quantiser without its codes is written; their length, its last field, and they are put in afterwards.
    """
    faiss = kinds.load_faiss()
    n, dim = vectors.shape
    storage = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    storage.is_trained, storage.ntotal = True, n
    index = faiss.IndexRefine(base, storage)
    _write(index, path)
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
