"""Choosing a kind and its operating points by measurement, for each modality that will be asked."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vector_index import kinds, parameters
from vector_index.construction import EF_CONSTRUCTION, write_index
from vector_index.kinds import AUTO, FLAT_ROWS, Floats, Ints
from vector_index.manifest import IndexStamp, OperatingPoint, RecallPoint, SegmentStamp

EF_SEARCH: Final = (16, 32, 64, 128, 256, 512, 1024)
NPROBE: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
K_FACTOR: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BETWEEN: Final = (0.5, 0.625, 0.75, 0.875, 1.0)  # of each value of the point that the ladders give
RECALL_QUERIES: Final = 200
ALIKE: Final = 10_000  # texts that an index of pictures learns from
RECALL_K: Final = 10
SAMPLE_ROWS: Final = 50_000  # that kinds are compared on
ENOUGH: Final = 0.998  # of recall: what costs more is not measured
_GAIN: Final = 0.002  # in recall: a deeper refinement that gains less is not followed further
_SMALL: Final = 8  # values up to this are not divided: what is saved is next to nothing
_ERRORS: Final = 2  # standard errors that a recall is lowered by before it is compared with the target
_TIE: Final = 1e-6  # scores this close are equal but for rounding

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """What an index is to reach: recall@10; bytes that may be held in memory; milliseconds a query, on one thread."""

    recall: float = 0.95
    memory: int | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class Queries:
    """Unit float32 (q, dim) of one modality. `rows` are the queries' own rows where they are rows of the collection
    searched, int64 (q,): such a row is its own nearest neighbour, which proves nothing, and is left out. `alike` are
    others of the modality, (r, dim), where it is not that of the collection: an index may learn from them."""

    vectors: Floats
    rows: Ints | None = None
    alike: Floats | None = None

    @classmethod
    def sample(cls, vectors_of: Callable[[Ints], Floats], count: int, *, own: bool) -> Queries:
        """Take some of `count` rows, evenly spread; `own` where they are rows of the collection searched."""
        rows = kinds.evenly_spread(count, RECALL_QUERIES)
        if own:
            return cls(vectors_of(rows), rows)
        return cls(vectors_of(rows), alike=vectors_of(np.setdiff1d(kinds.evenly_spread(count, ALIKE), rows)))


def build_index(
    kind: str,
    vectors: Floats,
    queries: Mapping[str, Queries],
    target: Target,
    path: Path,
    beside: SegmentStamp | None = None,
) -> IndexStamp:
    """Build a FAISS inner-product index at `path` and measure it with queries of each modality ("images", "texts").

    Args:
        kind: a string of `index_factory`, or "auto".
        vectors: unit float32 (n, dim), typically a memory map; read in chunks. An empty one always gets "Flat".
        queries: by modality; a modality without any is not measured.
        target: the cheapest operating point that reaches it is chosen for each modality; the best, with a warning,
            where none does.
        beside: a larger segment of the same collection. What "auto" took for it is tried before a choice is made.
    """
    queries = {name: each for name, each in queries.items() if len(each.vectors)}
    best: IndexStamp | None = None
    last = cache(lambda: last_scores(vectors, queries))
    for each in _kinds(kind, vectors, queries, target, beside):
        part = path.with_suffix(".part")
        stamp = _build(each, vectors, queries, target, part, last)
        if best is None or stamp.recall > best.recall:
            part.replace(path)
            best = stamp
        part.unlink(missing_ok=True)
        if best.recall >= target.recall:
            break
    assert best is not None
    for name, point in best.queries.items():
        if point.recall_at_10 < target.recall:
            said = "%s reaches recall@10 %.3f for %s as queries, short of %.3f"
            log.warning(said, best.kind, point.recall_at_10, name, target.recall)
        if target.latency_ms is not None and point.ms > target.latency_ms:
            log.warning(
                "%s takes %.2f ms for %s as queries, more than %g", best.kind, point.ms, name, target.latency_ms
            )
    return best


def _kinds(
    kind: str, vectors: Floats, queries: Mapping[str, Queries], target: Target, beside: SegmentStamp | None
) -> Iterator[str]:
    """What to build until one reaches the recall; the choice, which is most of the work, is made when it is needed."""
    if kind != AUTO:
        yield kind
        return
    known = None if beside is None else resized(beside.index.kind, beside.rows, *vectors.shape)
    if known is not None:
        yield known
    yield from (each for each in choose_index_types(vectors, queries, target) if each != known)


def _build(
    kind: str,
    vectors: Floats,
    queries: Mapping[str, Queries],
    target: Target,
    path: Path,
    last: Callable[[], Mapping[str, Floats]],
) -> IndexStamp:
    """Build and measure; `last` gives the scores that exact search ends with, where there is anything to measure."""
    kind = write_index(kind, vectors, path, _alike(queries))
    index = kinds.read_index(path)
    fixed = facts(index)
    if not parameters.allowed(index):
        return IndexStamp(kind=kind, parameters=fixed)
    points = {name: operating_point(index, vectors, each, target, last()[name]) for name, each in queries.items()}
    return IndexStamp(
        kind=kind,
        parameters={**fixed, **widest(points)},
        recall=min((point.recall_at_10 for point in points.values()), default=1.0),
        queries=points,
    )


def _alike(queries: Mapping[str, Queries]) -> list[Floats]:
    return [each.alike for each in queries.values() if each.alike is not None and len(each.alike)]


def facts(index: Any) -> dict[str, int]:
    """Return what an index was built with: M and efConstruction, or nlist."""
    core = kinds.core_of(index)
    if kinds.is_hnsw(core):
        return {"M": core.hnsw.nb_neighbors(0) // 2, "efConstruction": EF_CONSTRUCTION}
    return {"nlist": core.nlist} if kinds.is_ivf(core) else {}


def widest(points: Mapping[str, OperatingPoint]) -> dict[str, int]:
    """Return parameters that serve every modality: of each name the largest value."""
    names = {name for point in points.values() for name in point.parameters}
    return {name: max(point.parameters.get(name, 0) for point in points.values()) for name in sorted(names)}


def candidates(n: int, dim: int) -> list[str]:
    """Return the kinds that "auto" compares for (n, dim) vectors: those that paid somewhere (docs/scaling.md)."""
    return ["Flat"] if n <= FLAT_ROWS else _approximate(n, dim)


def _approximate(n: int, dim: int) -> list[str]:
    lists = list_count(n)
    quantiser = f"IVF{lists}_HNSW32" if lists > 8_192 else f"IVF{lists}"
    among = [f"{quantiser},SQ8", f"{quantiser},RaBitQfs,Refine(SQfp16)", "HNSW32,SQ8"]
    if dim % 16 == 0:
        many = f"IVF{2 * lists}(PQ{dim // 4}x4fs,RFlat)"  # ranking lists by codes, it can have more of them
        among.append(f"LeanVec{dim // 2},{many},PQ{dim // 4}x4fsr,Refine(SQfp16)")
    return among


def resized(kind: str, rows: int, n: int, dim: int) -> str | None:
    """Return what a kind that "auto" took for `rows` vectors is called for n, None where it is no candidate there."""
    return dict(zip(_approximate(rows, dim), _approximate(n, dim), strict=True)).get(kind) if n > FLAT_ROWS else None


def is_exact(kind: str, n: int) -> bool:
    """Tell whether a kind is exact at `n` rows, so that nothing is measured."""
    return n == 0 or "Flat" in (kind, *(candidates(n, 1) if kind == AUTO else ()))


def list_count(n: int) -> int:
    """Return how many inverted lists suit `n` rows: the power of two nearest 4 √n."""
    return int(2 ** round(np.log2(4 * n**0.5)))


def choose_index_types(vectors: Floats, queries: Mapping[str, Queries], target: Target) -> list[str]:
    """Return what "auto" stands for, the best first: of the candidates that fit into the memory, the one whose slowest
    modality is fastest on a sample of the vectors, at the recall that is wanted. One that does not reach it comes last.

    The next ones are for a corpus where the first falls short of the recall: among more vectors codes must tell nearer
    neighbours apart than in the sample.
    """
    n = len(vectors)
    among = candidates(*vectors.shape)
    if len(among) == 1:
        return among
    sample = kinds.evenly(vectors, SAMPLE_ROWS)
    asked = {name: Queries(each.vectors) for name, each in queries.items()}
    last = last_scores(sample, asked)
    measured: list[tuple[bool, bool, float, str]] = []
    with tempfile.TemporaryDirectory(prefix="choose-") as folder:
        for kind, small in zip(among, _approximate(*sample.shape), strict=True):
            path = Path(folder, "sample.faiss")
            write_index(small, sample, path, _alike(queries))
            index = kinds.read_index(path)
            held = held_bytes(index, path) / len(sample) * n
            points = [
                choose(recall_curve(index, sample, each, target, last[name]), target) for name, each in asked.items()
            ]
            slowest = max(point.ms for point in points)
            short = any(point.recall_at_10 < target.recall for point in points)
            too_large = target.memory is not None and held > target.memory
            measured.append((too_large, short, held if too_large else slowest, kind))
            log.info(
                "%s: %.2f ms a query, recall@10 %.3f, %d MB in memory",
                kind,
                slowest,
                min(point.recall_at_10 for point in points),
                held / 2**20,
            )
    measured.sort()
    fitting = [kind for too_large, _, _, kind in measured if not too_large]
    if not fitting:
        said = "no kind fits %d vectors into %d bytes; the smallest, %s, needs %d"
        log.warning(said, n, target.memory, measured[0][3], measured[0][2])
    return fitting or [measured[0][3]]


def held_bytes(index: Any, path: Path) -> int:
    """Return how much of an index a search needs in memory: all but the vectors that refine, which are read a few at a
    time from the map."""
    size = path.stat().st_size
    storage = kinds.storage_of(index)
    return size - (storage.ntotal * storage.code_size if kinds.is_refined(index) else 0)


def last_scores(vectors: Floats, queries: Mapping[str, Queries]) -> dict[str, Floats]:
    """Return for each modality the score of the last row that exact search finds, float32 (q, 1); reads them once."""
    best = kinds.exact_scores(np.vstack([each.vectors for each in queries.values()]), vectors, RECALL_K + 1)
    ends = np.cumsum([len(each.vectors) for each in queries.values()])
    return {
        name: scores[:, : _depth(each, vectors)][:, -1:]
        for (name, each), scores in zip(queries.items(), np.split(best, ends[:-1]), strict=True)
    }


def _depth(queries: Queries, vectors: Floats) -> int:
    """How many rows are asked for: one more where each query finds itself."""
    return min(RECALL_K + (queries.rows is not None), len(vectors))


def operating_point(
    index: Any, vectors: Floats, queries: Queries, target: Target, last: Floats | None = None
) -> OperatingPoint:
    """Measure recall@10 and milliseconds at every step of the ladders, then between the steps, and choose.

    `last` are the scores of `last_scores`, where they are known.
    """
    last = last_scores(vectors, {"": queries})[""] if last is None else last
    measured = list(recall_curve(index, vectors, queries, target, last))
    chosen = choose(measured, target).parameters
    known = [point.parameters for point, _ in measured]
    measured += [recall_at(step, index, vectors, queries, last) for step in finer(chosen) if step not in known]
    return choose(measured, target)


def choose(measured: Iterable[tuple[RecallPoint, float]], target: Target) -> OperatingPoint:
    """Choose among points, each with the standard error of its recall.

    The cheapest point is taken whose recall is the target's even two standard errors lower, for other queries will be
    asked, and the cheapest of many good ones is good by luck; of those within the latency, where one is given, the best
    if none reaches it.
    """
    measured = list(measured)
    curve = [point for point, _ in measured]
    in_time = [each for each in measured if target.latency_ms is None or each[0].ms <= target.latency_ms]
    good = [point for point, error in in_time if point.recall_at_10 - _ERRORS * error >= target.recall]
    if good:
        chosen = min(good, key=lambda point: point.ms)
    elif in_time:
        chosen = max((point for point, _ in in_time), key=lambda point: (point.recall_at_10, -point.ms))
    else:
        chosen = min(curve, key=lambda point: point.ms)
    return OperatingPoint(
        parameters=chosen.parameters, recall_at_10=chosen.recall_at_10, ms=chosen.ms, curve=frontier(curve)
    )


def frontier(curve: list[RecallPoint]) -> list[RecallPoint]:
    """Return the points that no other beats in both recall and time, the quickest first."""
    kept: list[RecallPoint] = []
    for point in sorted(curve, key=lambda point: (point.ms, -point.recall_at_10)):
        if not kept or point.recall_at_10 > kept[-1].recall_at_10:
            kept.append(point)
    return kept


def recall_curve(
    index: Any, vectors: Floats, queries: Queries, target: Target, last: Floats | None = None
) -> Iterator[tuple[RecallPoint, float]]:
    """Yield what `recall_at` finds at the steps of the ladders, but for those that cannot gain and those after a recall
    that is enough."""
    last = last_scores(vectors, {"": queries})[""] if last is None else last
    before: tuple[list[int], float] | None = None
    done: list[int] | None = None
    for step in ladder(index):
        place = [value for name, value in step.items() if name != "k_factor"]
        if place == done:
            continue
        point, error = recall_at(step, index, vectors, queries, last)
        yield point, error
        recall = point.recall_at_10
        if recall >= max(ENOUGH, target.recall):
            return
        if "k_factor" in step and before is not None and before[0] == place and recall < before[1] + _GAIN:
            done = place
        before = place, recall


def recall_at(
    step: dict[str, int], index: Any, vectors: Floats, queries: Queries, last: Floats
) -> tuple[RecallPoint, float]:
    """Measure recall@10 with these parameters, its standard error, and the time of a query, which is searched alone.

    A row counts as found if its true score is no less than that of the last exact hit, which is in `last`. Counting ids
    instead would call one of two equal captions wrong. Milliseconds are those of the processor, on one thread: they do
    not change with what else the machine is doing.
    """
    faiss = kinds.load_faiss()
    k = _depth(queries, vectors)
    asked = parameters.to_faiss(index, step)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # so that the time is that of this thread
    try:
        kinds.search(index, queries.vectors[:5], k, asked)
        began = time.thread_time()
        rows = np.vstack([kinds.search(index, one[None], k, asked)[1] for one in queries.vectors])
        ms = (time.thread_time() - began) * 1e3 / len(rows)
    finally:
        faiss.omp_set_num_threads(threads)
    scores = np.einsum("qd,qkd->qk", queries.vectors, vectors[np.maximum(rows, 0)])
    recall, error = recall_of((rows >= 0) & (scores >= last - _TIE), rows, queries.rows, k)
    return RecallPoint(parameters=step, recall_at_10=recall, ms=ms), error


def recall_of(hits: npt.NDArray[np.bool_], rows: Ints, own: Ints | None, k: int) -> tuple[float, float]:
    """Return recall@k, and its standard error over the queries.

    Args:
        hits: which of the rows found are right, bool (q, at most k).
        rows: their numbers, of the same shape.
        own: the row that each query is itself, (q,), which does not count; None where it is none.
        k: how many rows were asked for, `own` among them.
    """
    if own is not None:
        hits, k = hits & (rows != own[:, None]), max(1, k - 1)
    share = np.minimum(hits.sum(1) / k, 1)
    return float(share.mean()), float(share.std() / len(share) ** 0.5)


def finer(step: Mapping[str, int]) -> list[dict[str, int]]:
    """Return what lies between a step of doubling ladders and the ones before it; nothing for a graph, which a filter
    leads astray the sooner the fewer candidates it keeps."""
    if "efSearch" in step:
        return []
    values = [
        sorted({round(value * share) for share in (BETWEEN if value > _SMALL else (1.0,))}) for value in step.values()
    ]
    return [dict(zip(step, combination, strict=True)) for combination in product(*values)]


def ladder(index: Any) -> Iterator[dict[str, int]]:
    """Yield the parameters to measure: every combination, each name's values rising."""
    limits = parameters.allowed(index)
    steps = {"efSearch": EF_SEARCH, "nprobe": NPROBE, "k_factor": K_FACTOR}
    names = list(limits)
    values = [[value for value in steps[name] if value <= limits[name]] for name in names]
    for combination in product(*values):
        yield dict(zip(names, combination, strict=True))
