"""Memory of the service after 1,000 queries of random lengths, and as many more as asked for: it must stay flat.

Lengths are log-uniform from one word to more than the model reads, so that every padded shape comes up.
"""

from __future__ import annotations

from typing import Any

from benchmarks import report
from benchmarks.common import model_and_index, ours, parser
from benchmarks.fixtures import any_length
from benchmarks.load import texts_as_json


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--queries", type=int, default=50_000)
    options.add_argument("--clients", type=int, default=32)
    given = options.parse_args()
    _, index = model_and_index(given.folder, seed=given.seed)
    texts = texts_as_json(any_length(10_000, given.seed + 4))
    seen = report.conditions()
    rows: list[dict[str, Any]] = []
    with ours(index) as service:
        url = service.base + "/v1/search/images"
        done = errors = 0
        early = 0.0

        def note() -> None:
            mb = service.resident / 2**20
            rows.append({"queries": done, "rss_mb": mb, "over_first": mb / (early or mb), "errors": errors})

        rows.append({"queries": 0, "rss_mb": service.resident / 2**20, "over_first": None, "errors": 0})
        while done < max(given.queries, 1001):
            load = texts.drive(url, given.clients, 2 if done < 1000 else given.seconds)
            before, done = done, done + load.requests
            errors += load.errors
            if before < 1000 <= done:
                early = service.resident / 2**20
            if early:
                note()
    seen["load_average_after"] = report.conditions()["load_average"]
    report.save("memory", seen, rows, given.out)


if __name__ == "__main__":
    main()
