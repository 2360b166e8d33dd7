"""What each stage of one request costs, alone on one thread with nothing else to do: the parts of the cost model.

The last rows are over HTTP with one client: what is left of them after the stages is the socket, the parsing, the
threads' hand-over and the answer.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.common import model_and_index, ours, parser
from benchmarks.fixtures import captions, jpegs
from benchmarks.load import Bodies, texts_as_json
from dual_encoder import load_encoder
from dual_encoder.image import open_image
from service.finder import Wanted, find
from service.results import hits_json
from service.threads import share
from vector_index import IndexDirectory


def main() -> None:
    options = parser(__doc__)
    given = options.parse_args()
    model, index = model_and_index(given.folder, seed=given.seed)
    threads = share()
    threads.limit_search()
    encoder = load_encoder(str(model), threads=threads.encoder)
    words = captions(2000, given.seed + 5)
    rows_of = [encoder.token_rows([text]) for text in words]
    small, large = jpegs(4, 0.3, given.seed), jpegs(2, 12, given.seed)
    seconds = given.seconds / 5
    seen = report.conditions()
    rows: list[dict[str, Any]] = []

    def note(stage: str, work: Callable[[int], object], items: int = 1) -> None:
        milliseconds = median_ms(work, seconds) / items
        rows.append({"stage": stage, "ms": milliseconds})

    with IndexDirectory(index).open() as snapshot:
        images = snapshot.images
        rng = np.random.default_rng(given.seed)
        vectors = images.vectors(rng.integers(0, len(images), 256))

        def wanted(number: int, k: int, include: tuple[str, ...] = ()) -> list[Wanted]:
            return [Wanted(snapshot, "images", vectors[number % 256], k, 0, None, False, include)]

        def page(k: int, include: tuple[str, ...]) -> Callable[[int], object]:
            scores, found = images.search(vectors[:1], k, exact=k > 1000)
            return lambda i: hits_json(snapshot, "images", [(scores[0], found[0], 1)], include)

        def decode(files: list[bytes]) -> Callable[[int], object]:
            return lambda i: open_image(files[i % len(files)], min(encoder.image_size)).image

        pictures = [open_image(file, min(encoder.image_size)).image for file in small]
        pixels = np.stack([encoder.preprocess(picture) for picture in pictures])
        note("tokenise one text", lambda i: encoder.token_rows([words[i % 2000]]))
        note("encode one text, one stream", lambda i: encoder.encode_rows(rows_of[i % 2000]))
        note("encode texts in 32s, one stream, each", lambda i: encoder.encode_rows(_batch(rows_of, i)), 32)
        note("decode a JPEG of 0.3 MP", decode(small))
        note("decode a JPEG of 12 MP, reduced", decode(large))
        note("preprocess it", lambda i: encoder.preprocess(pictures[i % len(pictures)]))
        note("encode one picture, one stream", lambda i: encoder.encode_pixels(pixels[i % 4 : i % 4 + 1]))
        note("search 100,000, k = 10", lambda i: images.search(vectors[i % 256 : i % 256 + 1], 10))
        note("search 100,000, k = 10,000 (exact)", lambda i: images.search(vectors[:1], 10_000, exact=True))
        note("take and JSON, k = 10", page(10, ()))
        note("take and JSON, k = 10,000 with metadata", page(10_000, ("metadata",)))
        note("find: search, take and JSON, k = 10", lambda i: find(wanted(i, 10)))
    with ours(index) as service:
        some = [f"{row:016x}" for row in rng.integers(0, 100_000, 2000)]
        by_id = [json.dumps({"query": {"image": {"id": id}}, "k": 10}).encode() for id in some]
        url = service.base + "/v1/search/images"
        for what, bodies in (
            ("served: a search by id (no encoding), p50", Bodies(by_id, "application/json")),
            ("served: a search by text, p50", texts_as_json(words)),
        ):
            load = bodies.drive(url, 1, 2 * seconds, warm_up=2)
            rows.append({"stage": what, "ms": load.p50_ms if load.requests else None})
    seen["load_average_after"] = report.conditions()["load_average"]
    report.save("stages", seen, rows, given.out)


def median_ms(work: Callable[[int], object], seconds: float) -> float:
    """The median of as many calls as fit into some seconds, after a warm-up of a quarter of them."""
    for span in (seconds / 4, seconds):
        times: list[float] = []
        until = time.perf_counter() + span
        while not times or time.perf_counter() < until:
            began = time.perf_counter()
            work(len(times))
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


def _batch(rows_of: list[list[Any]], turn: int) -> list[Any]:
    start = turn * 32 % (len(rows_of) - 32)
    return [rows[0] for rows in rows_of[start : start + 32]]


if __name__ == "__main__":
    main()
