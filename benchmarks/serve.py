"""The service under load: 1 to 128 clients in a closed loop, then an open loop; deep answers; event-loop lag.

Closed loop: each client sends its next request when it has the answer. Open loop: requests come at random times at a
given rate, answers or not; rates are shares of what the closed loop reached. Distinct texts as long as captions,
distinct JPEGs of 0.3 and 12 MP, 100,000 × 512 vectors, caches off. The loop's lag counts once all clients are there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import report
from benchmarks.common import model_and_index, ours, parser
from benchmarks.fixtures import captions, jpegs, marked
from benchmarks.load import Load, pictures_as_forms, texts_as_json
from benchmarks.process import Service

_TEXT = "text"
_SETTLED = 2.0  # seconds after which the loop's lag counts: wrk opens every connection at once, and before that reads
_DEEP = '{"query": {"text": TEXT}, "k": 10000, "include": ["metadata"]}'


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 128])
    options.add_argument(
        "--shares", type=float, nargs="*", default=[0.5, 0.8, 0.95], help="open loop: of the closed one"
    )
    given = options.parse_args()
    _, index = model_and_index(given.folder, seed=given.seed)
    texts = texts_as_json(captions(20_000, given.seed + 1))
    loads = {
        _TEXT: texts,
        "text, k = 10,000 with metadata": texts_as_json(captions(500, given.seed + 2), _DEEP),
        # More of them than clients: what is asked for twice at a time is computed once.
        "JPEG 0.3 MP": pictures_as_forms(marked(jpegs(48, 0.3, given.seed), 384)),
        "JPEG 12 MP": pictures_as_forms(jpegs(6, 12, given.seed)),
    }
    seen = report.conditions()
    rows: list[dict[str, Any]] = []
    with ours(index) as service:
        url = service.base + "/v1/search/images"

        def note(what: str, loop: str, run: Callable[[], Load]) -> Load:
            settled: list[dict[float, float]] = []
            timer = threading.Timer(_SETTLED, lambda: settled.append(lags(service)))
            timer.start()
            load = run()
            timer.join()
            lag = lag_p99(settled[0], lags(service))
            rows.append({"query": what, "loop": loop, **load.to_json(), "loop_lag_p99_ms": lag})
            return load

        most = 0.0
        for what, bodies in loads.items():
            for clients in given.clients if what in (_TEXT, "JPEG 0.3 MP") else given.clients[:1]:
                drive = partial(bodies.drive, url, clients, given.seconds)
                bodies.drive(url, clients, 2)  # warms up
                service.settle()
                load = note(what, "closed", drive)
                most = max(most, load.per_second) if what == _TEXT else most
                service.settle()
        for number, share in enumerate(given.shares):
            offer = partial(texts.offer, url, max(1.0, share * most), given.seconds, seed=given.seed + number)
            note(_TEXT, f"open, {share:.0%} of the most", offer)
            service.settle()
        rows.append({"query": "all of the above", "loop": "", "rss_mb": service.resident / 2**20})
    seen["load_average_after"] = report.conditions()["load_average"]
    report.save("serve", seen, rows, given.out)


def lags(service: Service) -> dict[float, float]:
    """How many times the event loop woke at most so many seconds late."""
    found = {}
    for line in service.get("/metrics").decode().splitlines():
        if line.startswith("crossmodal_loop_lag_seconds_bucket"):
            found[float(line.split('"')[1])] = float(line.rsplit(" ", 1)[1])
    return found


def lag_p99(before: dict[float, float], after: dict[float, float]) -> float:
    """The upper bound in ms of the bucket that the 99th percentile of what came between falls in."""
    counts = {bound: after[bound] - before[bound] for bound in after}
    total = max(counts.values())
    return min(bound for bound, count in counts.items() if count >= 0.99 * total) * 1e3


if __name__ == "__main__":
    main()
