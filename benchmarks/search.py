"""What a search costs as the corpus grows: the graph, the exact search, and the graph at a deeper k.

In-process, one query at a time on one thread, as the service searches; no encoding and no HTTP.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.common import model_and_index, parser
from service.threads import share
from vector_index import Collection, IndexDirectory
from vector_index.kinds import FLAT_ROWS


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--counts", type=int, nargs="+", default=[10_000, 30_000, 100_000], help="vectors; 1000000 takes long to build"
    )
    given = options.parse_args()
    share().limit_search()
    seen = report.conditions()
    rows = []
    for count in given.counts:
        _, index = model_and_index(given.folder, count, given.seed, "HNSW32,SQfp16" if count <= FLAT_ROWS else "auto")
        rows += costs(index, count, given.seconds / 5, given.seed)
    seen["load_average_after"] = report.conditions()["load_average"]
    report.save("search", seen, rows, given.out)


def costs(index: Path, count: int, seconds: float, seed: int) -> list[dict[str, Any]]:
    """Milliseconds of one query, each way, measured for some seconds after one that warms up."""
    rng = np.random.default_rng([seed, 3])
    rows = []
    with IndexDirectory(index).open() as snapshot:
        images = snapshot.images
        queries = images.vectors(rng.integers(0, count, 1000)) + rng.normal(0, 0.02, (1000, images.dim))
        queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
        for how, k, exact in (("graph", 10, False), ("graph", 100, False), ("exact", 10, True)):
            _median_ms(images, queries, k, exact, seconds / 4)
            p50 = _median_ms(images, queries, k, exact, seconds)
            rows.append({"vectors": count, "search": how, "k": k, "p50_ms": p50})
        stamp = snapshot.manifest.images.index
        size = sum(file.stat().st_size for file in snapshot.path.glob("images.faiss"))
    for row in rows:
        row |= {"efSearch": stamp.parameters.get("efSearch", ""), "recall@10": stamp.recall, "index_mb": size / 2**20}
    return rows


def _median_ms(images: Collection, queries: NDArray[np.float32], k: int, exact: bool, seconds: float) -> float:
    until = time.perf_counter() + seconds
    times: list[float] = []
    while not times or time.perf_counter() < until:
        query = queries[len(times) % len(queries)][None]
        began = time.perf_counter()
        images.search(query, k, exact=exact)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


if __name__ == "__main__":
    main()
