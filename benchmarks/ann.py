"""Index kinds on vectors as CLIP makes them: recall, speed, memory and build time, asked with texts and with pictures.

Every kind is tuned with captions and pictures of the corpus, as an index build does, and judged with others that have
nothing in it. Queries a second are those of two threads with 32 queries a call, and of one that asks one at a time,
each against exact search in turns. `auto` is published and searched as a snapshot, with filters too. usearch and
hnswlib are searched at the smallest ef that is as good as `auto` for texts.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.common import parser
from benchmarks.vectors import CHUNK, LARGE, Chunk, Embeddings, Floats, opened, stored
from vector_index import Filter, IndexDirectory, ModelStamp, SnapshotWriter, Target, kinds, parameters, tuning
from vector_index.construction import write_index

K = 10
BATCH = 32
THREADS = 2
JUDGES = 500
GROWTH = 0.01  # of the corpus, added to it
OF_FAISS = "faiss-defaults"
SELECTIVITIES = (0.5, 0.1, 0.01, 0.001, 0.0001)
Search = Callable[[Floats], NDArray[np.int64]]


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=[100_000],
        help="sizes; of all but the first, auto and exact search alone",
    )
    options.add_argument(
        "--kinds", nargs="*",
        help=f"strings of index_factory; LISTS stands for a number that suits; {OF_FAISS} is FAISS' own IVF,Flat",
    )  # fmt: skip
    options.add_argument("--target-recall", type=float, default=0.95)
    options.add_argument("--no-peers", dest="peers", action="store_false", help="leave usearch and hnswlib out")
    options.add_argument("--plot", type=Path, help="draw recall against milliseconds; needs matplotlib")
    given = options.parse_args()
    seen = {**report.conditions(), "target_recall": given.target_recall}
    rows: list[dict[str, Any]] = []
    curves: dict[str, Any] = {}  # of the first size

    def note(*more: dict[str, Any]) -> None:
        for row in more:
            curve = row.pop("curve", None)
            if curve and count == given.rows[0]:
                curves[row["kind"]] = curve
            rows.append({"rows": count, **row})
            print(json.dumps(rows[-1]), flush=True)

    for count in given.rows:
        bench = Bench(stored(given.folder, count, given.seed), given.seed, given.target_recall, given.seconds / 10)
        note(bench.exact())
        auto, filtered = bench.auto(given.folder)
        note(auto, *filtered)
        if count != given.rows[0]:
            continue
        lists = tuning.list_count(count)
        names = given.kinds if given.kinds is not None else DEFAULT
        for kind in names:
            note(bench.default_ivf(lists) if kind == OF_FAISS else bench.kind(kind.replace("LISTS", str(lists))))
        for peer in (bench.usearch("i8"), bench.usearch("f16"), bench.hnswlib()) if given.peers else ():
            row = peer(auto["recall texts"])
            row["auto × its batch"] = auto["batch q/s"] / row["batch q/s"]
            row["auto × its single"] = auto["single q/s"] / row["single q/s"]
            row["auto × its memory"] = auto["in memory"] / row["in memory"]
            note(row)
    seen["load_average_after"] = report.conditions()["load_average"]
    report.save("ann", seen, rows, given.out, curves=curves)
    if given.plot:
        draw(curves, given.rows[0], given.plot)


DEFAULT = (
    "IVFLISTS,SQ8",
    "IVFLISTS,RaBitQfs,Refine(SQfp16)",
    "IVFLISTS,RaBitQfs2,Refine(SQfp16)",
    "IVFLISTS,PQ64x4fs,Refine(SQfp16)",
    "IVFLISTS,PQ128x4fs,Refine(SQfp16)",
    "IVFLISTS,PQ128x4fsr,Refine(SQfp16)",
    "LeanVec256,IVFLISTS,PQ128x4fsr,Refine(SQfp16)",
    "OPQ128,IVFLISTS,PQ128x4fs,Refine(SQfp16)",
    "IVFLISTS,SQ4,Refine(SQfp16)",
    "IVFLISTS,RaBitQ,Refine(SQfp16)",
    "IVFLISTS,EDEN4,Refine(SQfp16)",
    "IVFLISTS,FlatPanorama8",
    "PQ128x4fs,Refine(SQfp16)",
    "HNSW32,SQ8",
    "HNSW32,SQfp16",
    "PCA160,HNSW32,SQ8,Refine(SQfp16)",
    OF_FAISS,
)


class Bench:
    """One corpus, the queries that indexes are tuned with, and those that they are judged with."""

    def __init__(self, vectors: Floats, seed: int, recall: float, seconds: float) -> None:
        self.vectors, self.seconds = vectors, seconds
        self.target = Target(recall)
        made = Embeddings(seed)
        self.judges: Chunk = made.queries(JUDGES)
        first = next(made.chunks(min(CHUNK, len(vectors))))
        rows = kinds.evenly_spread(len(first.texts), tuning.RECALL_QUERIES)
        own = kinds.evenly_spread(len(vectors), tuning.RECALL_QUERIES)
        self.captions = first.texts
        self.alike = np.delete(first.texts, rows, axis=0)[: tuning.ALIKE]
        self.tuned = {
            "texts": tuning.Queries(first.texts[rows]),
            "images": tuning.Queries(np.ascontiguousarray(vectors[own]), own),
        }
        self.asked = {"texts": self.judges.texts, "images": self.judges.images}
        self.last = {name: kinds.exact_scores(each, vectors, K)[:, -1:] for name, each in self.asked.items()}
        self._exact: Search | None = None
        if len(vectors) <= LARGE:
            flat = kinds.load_faiss().IndexFlatIP(vectors.shape[1])
            for start in range(0, len(vectors), kinds.CHUNK_ROWS):
                flat.add(np.ascontiguousarray(vectors[start : start + kinds.CHUNK_ROWS]))
            self._exact = lambda queries: flat.search(queries, K)[1]

    def exact(self) -> dict[str, Any]:
        """The yardstick: every vector, float32; not held, and so not timed, when there are too many."""
        return {
            "kind": "exact (Flat)", "bytes/vector": 4 * self.vectors.shape[1],
            "recall texts": 1.0, "recall images": 1.0,
            **(self._speed(self._exact) if self._exact else {}),
        }  # fmt: skip

    def kind(self, kind: str) -> dict[str, Any]:
        """Build a kind in a process of its own, tune it, judge it."""
        with tempfile.TemporaryDirectory(prefix="ann-") as folder:
            path = Path(folder, "index.faiss")
            try:
                built = in_child(partial(_write, kind, self.vectors.filename, self.alike, path))  # type: ignore[attr-defined]
            except RuntimeError as error:
                return {"kind": kind, "error": str(error)[-200:]}
            index = kinds.read_index(path)
            size = {
                "bytes/vector": path.stat().st_size / len(self.vectors),
                "in memory": tuning.held_bytes(index, path) / len(self.vectors),
            }
            return {"kind": kind, **built, **size, **self._judge(index)}

    def default_ivf(self, lists: int) -> dict[str, Any]:
        """FAISS' own k-means over full vectors, as its defaults have it: 256 points a list."""
        began, spent = time.monotonic(), time.process_time()
        faiss = kinds.load_faiss()
        index = faiss.index_factory(self.vectors.shape[1], f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
        index.train(kinds.evenly(self.vectors, 256 * lists))
        for start in range(0, len(self.vectors), kinds.CHUNK_ROWS):
            index.add(np.ascontiguousarray(self.vectors[start : start + kinds.CHUNK_ROWS]))
        took = {"build s": time.monotonic() - began, "build cpu s": time.process_time() - spent}
        return {"kind": f"IVF{lists},Flat at FAISS' defaults", **took,
                "bytes/vector": 4 * self.vectors.shape[1] + 8, **self._judge(index)}  # fmt: skip

    def auto(self, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Publish a snapshot with `--index-type auto`, judge its index, and search it with filters."""
        with tempfile.TemporaryDirectory(prefix="ann-", dir=folder) as out:
            built = in_child(partial(_publish, self.vectors.filename, self.captions, self.target, Path(out)))  # type: ignore[attr-defined]
            with IndexDirectory(out).open() as snapshot:
                images = snapshot.images
                stamp = snapshot.manifest.images.index
                path = snapshot.path / "images.faiss"
                size = {
                    "bytes/vector": path.stat().st_size / len(self.vectors),
                    "in memory": tuning.held_bytes(images.segments[0].index, path) / len(self.vectors),
                }
                search: Search = lambda queries: images.search(queries, K, modality="texts")[1]  # noqa: E731
                row = {
                    "kind": f"auto: {stamp.kind}", **built, **size,
                    **{f"recall {name}": self._recall(images.search(each, K, modality=name)[1], name)
                       for name, each in self.asked.items()},
                    **{f"{name} at": _shown(point.parameters) for name, point in stamp.queries.items()},
                    **{f"ms {name}": point.ms for name, point in stamp.queries.items()},
                    **self._speed(search),
                    "curve": {name: [[each.recall_at_10, each.ms] for each in point.curve]
                              for name, point in stamp.queries.items()},
                }  # fmt: skip
                filtered = [self._filtered(images, share) for share in SELECTIVITIES]
            served = in_child(partial(_serve, Path(out), self.judges.texts))
            row |= {name: value for name, value in served.items() if not name.startswith("build")}
            # The same pictures under other names: what is written costs what others would.
            grown = in_child(partial(_publish, self.vectors.filename, self.captions, self.target, Path(out), GROWTH))  # type: ignore[attr-defined]
            row["1 % more s"] = grown["build s"]
            row["1 % more / build"] = grown["build s"] / built["build s"]
            return row, filtered

    def _filtered(self, images: Any, share: float) -> dict[str, Any]:
        where = Filter.parse({"place": {"$lt": share}}, images.schema)
        began = time.perf_counter()
        selected = images.live(where)
        first = (time.perf_counter() - began) * 1e3
        row: dict[str, Any] = {
            "kind": "auto, filtered",
            "filter": f"{share:.2%}",
            "rows kept": len(selected),
            "filter ms": first,
        }
        kept = np.ascontiguousarray(self.vectors[selected]) if len(selected) <= 200_000 else None
        for name, each in self.asked.items():
            few = each[:100]
            if kept is not None:
                last = kinds.exact_scores(few, kept, min(K, len(kept)))[:, -1:]
            else:
                last = images.search(few, K, exact=True, where=where)[0][:, -1:]
            times, found = [], []
            for query in few:
                began = time.perf_counter()
                found.append(images.search(query[None], K, where=where, modality=name)[1][0])
                times.append((time.perf_counter() - began) * 1e3)
            scores = np.einsum("qd,qkd->qk", few, self.vectors[np.maximum(found, 0)])
            row |= {f"recall {name}": float(((scores >= last - 1e-3) & (np.array(found) >= 0)).mean()),
                    f"p50 ms {name}": float(np.median(times))}  # fmt: skip
        return row

    def usearch(self, dtype: str) -> Callable[[float], dict[str, Any]]:
        def run(recall: float) -> dict[str, Any]:
            from usearch.index import Index

            began = time.monotonic()
            index = Index(ndim=self.vectors.shape[1], metric="ip", dtype=dtype)
            for start in range(0, len(self.vectors), kinds.CHUNK_ROWS):
                chunk = np.ascontiguousarray(self.vectors[start : start + kinds.CHUNK_ROWS])
                index.add(np.arange(start, start + len(chunk)), chunk, threads=THREADS)
            seconds = time.monotonic() - began

            def search(ef: int) -> Search:
                def ask(queries: Floats) -> NDArray[np.int64]:
                    index.expansion_search = ef
                    found: NDArray[np.int64] = index.search(queries, K, threads=1).keys.astype(np.int64).reshape(-1, K)
                    return found

                return ask

            return self._peer(f"usearch {dtype}", seconds, index.serialized_length, search, recall)

        return run

    def hnswlib(self) -> Callable[[float], dict[str, Any]]:
        def run(recall: float) -> dict[str, Any]:
            import hnswlib

            began = time.monotonic()
            index = hnswlib.Index(space="ip", dim=self.vectors.shape[1])
            index.init_index(max_elements=len(self.vectors), M=16, ef_construction=128)
            for start in range(0, len(self.vectors), kinds.CHUNK_ROWS):
                index.add_items(
                    np.ascontiguousarray(self.vectors[start : start + kinds.CHUNK_ROWS]), num_threads=THREADS
                )
            seconds = time.monotonic() - began

            def search(ef: int) -> Search:
                def ask(queries: Floats) -> NDArray[np.int64]:
                    index.set_ef(ef)
                    found: NDArray[np.int64] = index.knn_query(queries, K, num_threads=1)[0].astype(np.int64)
                    return found

                return ask

            return self._peer("hnswlib", seconds, index.index_file_size(), search, recall)

        return run

    def _peer(
        self, name: str, seconds: float, size: int, search: Callable[[int], Search], recall: float
    ) -> dict[str, Any]:
        curve, chosen = [], 0
        for ef in (64, 128, 256, 512, 1024, 2048, 4096):
            began = time.thread_time()
            found = self._recall(np.vstack([search(ef)(one[None]) for one in self.asked["texts"][:200]]), "texts")
            curve.append([found, (time.thread_time() - began) * 5])
            chosen = ef
            if found >= recall:
                break
        return {
            "kind": name, "build s": seconds, "bytes/vector": size / len(self.vectors),
            "in memory": size / len(self.vectors),
            **{f"recall {each}": self._recall(search(chosen)(queries), each) for each, queries in self.asked.items()},
            "texts at": f"ef {chosen}", "ms texts": curve[-1][1], "curve": {"texts": curve},
            **self._speed(search(chosen)),
        }  # fmt: skip

    def _judge(self, index: Any) -> dict[str, Any]:
        row: dict[str, Any] = {"curve": {}}
        for name, queries in self.tuned.items():
            point = tuning.operating_point(index, self.vectors, queries, self.target)
            asked = parameters.to_faiss(index, point.parameters)
            row[f"recall {name}"] = self._recall(kinds.search(index, self.asked[name], K, asked)[1], name)
            row[f"{name} at"] = _shown(point.parameters)
            row[f"ms {name}"] = point.ms
            row["curve"][name] = [[each.recall_at_10, each.ms] for each in point.curve]
            if name == "texts":
                row |= self._speed(lambda queries, asked=asked: kinds.search(index, queries, K, asked)[1])
        return row

    def _recall(self, rows: NDArray[np.int64], name: str) -> float:
        queries, last = self.asked[name][: len(rows)], self.last[name][: len(rows)]
        scores = np.einsum("qd,qkd->qk", queries, self.vectors[np.maximum(rows, 0)])
        return float(((rows >= 0) & (scores >= last - 1e-6)).mean())

    def _speed(self, search: Search) -> dict[str, float]:
        """Text queries a second, in turns with exact search; the best of three turns."""
        best = {"batch": 0.0, "single": 0.0, "exact batch": 0.0, "exact single": 0.0}
        for _ in range(3):
            for prefix, each in (("", search), ("exact ", self._exact)):
                if each is not None:
                    best[prefix + "batch"] = max(best[prefix + "batch"], self._rate(each, BATCH, THREADS))
                    best[prefix + "single"] = max(best[prefix + "single"], self._rate(each, 1, 1))
        rates = {f"{name} q/s": best[name] for name in ("batch", "single")}
        if self._exact is not None:
            rates |= {f"{name} × exact": best[name] / best[f"exact {name}"] for name in ("batch", "single")}
        return rates

    def _rate(self, search: Search, batch: int, threads: int) -> float:
        queries = self.asked["texts"]

        def work(number: int) -> int:
            kinds.load_faiss().omp_set_num_threads(1)
            done, place = 0, number * BATCH
            while time.perf_counter() < until:
                place = place % (len(queries) - batch)
                search(queries[place : place + batch])
                done, place = done + batch, place + batch
            return done

        began = time.perf_counter()
        until = began + self.seconds
        if threads == 1:
            return work(0) / (time.perf_counter() - began)
        with ThreadPoolExecutor(threads) as pool:
            done = sum(pool.map(work, range(threads)))
        return done / (time.perf_counter() - began)


def in_child(work: Callable[[], dict[str, float] | None]) -> dict[str, float]:
    """Run in a fresh process: seconds, the processor's seconds, and the most megabytes held beside mapped files; and
    what it answers."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    child = context.Process(target=_measured, args=(work, far))
    child.start()
    far.close()
    try:
        answer = near.recv()
    except EOFError:
        raise RuntimeError("the build ended without an answer") from None
    finally:
        child.join()
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return dict(answer)


def _measured(work: Callable[[], dict[str, float] | None], answer: Any) -> None:
    most, over = 0.0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.05):
            most = max(most, _megabytes("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    began, spent = time.monotonic(), time.process_time()
    try:
        more = work() or {}
        answer.send({"build s": time.monotonic() - began, "build cpu s": time.process_time() - spent,
                     "build MB": most, **more})  # fmt: skip
    except Exception as error:
        answer.send(f"{type(error).__name__}: {error}")
    finally:
        over.set()
        watcher.join()


def _megabytes(name: str) -> float:
    """What /proc says that this process holds."""
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) / 1024


def _write(kind: str, vectors: str, alike: Floats, path: Path) -> None:
    if write_index(kind, opened(vectors), path, [alike]) != kind:
        raise ValueError("too few vectors")


def _serve(out: Path, queries: Floats) -> dict[str, float]:
    """Open a snapshot, ask it, one query at a time, in turn; then read all of it."""
    kinds.load_faiss().omp_set_num_threads(1)
    before, began = _megabytes("RssAnon"), time.perf_counter()
    snapshot = IndexDirectory(out).open()
    row, times = {"open s": time.perf_counter() - began}, []
    for turn in range(3):
        spent, times = time.thread_time(), []
        for query in queries:
            began = time.perf_counter()
            snapshot.images.search(query[None], K, modality="texts")
            times.append((time.perf_counter() - began) * 1e3)
        name = "first" if turn == 0 else "p50"
        row |= {
            f"{name} ms": float(np.median(times)),
            f"{name} cpu ms": (time.thread_time() - spent) * 1e3 / len(queries),
        }
    row |= {"served MB": _megabytes("RssAnon") - before, "mapped MB": _megabytes("RssFile")}
    began, spent = time.perf_counter(), time.process_time()
    if problems := snapshot.verify():
        raise RuntimeError(problems[0])
    return {**row, "verify s": time.perf_counter() - began, "verify cpu s": time.process_time() - spent}


def _publish(name: str, captions: Floats, target: Target, out: Path, share: float | None = None) -> dict[str, float]:
    """A snapshot of all; with a `share`, of what is there and so much more."""
    vectors = opened(name)
    choose, chosen = tuning.choose_index_types, [0.0, 0.0]

    def timed(*given: Any) -> list[str]:
        began, spent = time.monotonic(), time.process_time()
        found = choose(*given)
        chosen[0] += time.monotonic() - began
        chosen[1] += time.process_time() - spent
        return found

    tuning.choose_index_types = timed
    kind = ""
    if share is not None:
        kind, vectors, captions = "more", vectors[: int(share * len(vectors))], captions[: int(share * len(captions))]
    place = np.random.default_rng(9).random(len(vectors))
    stamp = ModelStamp(reference="synthetic", fingerprint="0" * 64, dim=vectors.shape[1])
    directory = IndexDirectory(out)
    base = directory.open() if share is not None else None
    with directory.lock(), SnapshotWriter(
        directory, model=stamp, source="synthetic", target_recall=target.recall, memory=target.memory, base=base
    ) as writer:  # fmt: skip
        for start in range(0, len(vectors), CHUNK):
            chunk = vectors[start : start + CHUNK]
            rows = range(start, start + len(chunk))
            columns = {"id": [f"{kind}{row:09d}" for row in rows], "uri": [f"{kind}{row}.jpg" for row in rows],
                       "place": place[start : start + len(chunk)]}  # fmt: skip
            writer.add_images(pa.record_batch(columns), chunk)
        texts = {"id": [f"t{kind}{row}" for row in range(len(captions))], "text": ["" for _ in captions],
                 "image_ids": [[f"{kind}{row:09d}"] for row in range(len(captions))]}  # fmt: skip
        writer.add_texts(pa.record_batch(texts), captions)
        writer.publish()
    return {"of it the choice s": chosen[0], "of it the choice cpu s": chosen[1]}


def _shown(values: dict[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def draw(curves: Mapping[str, Any], count: int, path: Path) -> None:
    """Draw every kind's curve for texts and for pictures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), layout="constrained")
    for number, name in enumerate(("texts", "images")):
        axes = figure.add_subplot(1, 2, number + 1, title=f"{name} as queries, {count:,} × 512",
                                  xlabel="processor milliseconds a query", ylabel="recall@10",
                                  ylim=(0.5, 1.005))  # fmt: skip
        for place, (kind, curve) in enumerate(curves.items()):
            if points := curve.get(name):
                axes.plot(
                    [ms for _, ms in points], [recall for recall, _ in points], ".-", label=kind, color=f"C{place}"
                )
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
        if number == 0:
            axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
