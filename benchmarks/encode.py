"""The bare encoder, and what the service adds to it: texts and pictures a second, and milliseconds of one query.

`served` is measured over HTTP in turns with the bare encoder, which uses the same threads in its best batches.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.common import model_and_index, ours, parser
from benchmarks.fixtures import captions, jpegs
from benchmarks.load import pictures_as_forms, texts_as_json
from dual_encoder import DualEncoder, load_encoder
from dual_encoder.image import open_image
from service.threads import share
from vector_index import IndexDirectory


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--clients", type=int, default=32)
    given = options.parse_args()
    model, index = model_and_index(given.folder, seed=given.seed)
    threads = share()
    encoder = load_encoder(str(model), threads=threads.encoder)
    streams = encoder.streams
    words, files = captions(20_000, given.seed + 3), jpegs(48, 0.3, given.seed)
    rows = encoder.token_rows(words[:4096])
    pixels = np.stack([decode(encoder, file) for file in files[:16]])
    texts, forms = texts_as_json(words), pictures_as_forms(files)
    seen = report.conditions()
    got: dict[str, list[float]] = {}

    def note(what: str, value: float) -> None:
        got.setdefault(what, []).append(value)

    with ours(index) as service, IndexDirectory(index).open() as snapshot:
        url = service.base + "/v1/search/images"

        def alone(i: int) -> None:
            snapshot.images.search(encoder.encode_texts([words[i]]), 10)

        threads.limit_search()
        for turn in range(given.rounds + 1):  # the first warms up
            note(
                "texts/s, bare encoder",
                rate(lambda i: encoder.encode_rows(in_turn(rows, i, 32)), 32, streams, given.seconds / 2),
            )
            note("texts/s, served", texts.drive(url, given.clients, given.seconds).per_second)
            note(
                "images/s, bare encoder",
                rate(lambda i: encoder.encode_pixels(pixels[:4]), 4, streams, given.seconds / 2),
            )
            note(
                "images/s, bare decoder",
                rate(lambda i: decode(encoder, files[i % len(files)]), 1, threads.decoders, given.seconds / 4),
            )
            note("images/s, served", forms.drive(url, given.clients, given.seconds).per_second)
            note("ms, one text in-process: tokenise, encode, search", _median_ms(alone, given.seconds / 3))
            note("ms, one text served, p50", texts.drive(url, 1, given.seconds / 2).p50_ms)
            if turn == 0:
                got.clear()
    out: list[dict[str, Any]] = [{"what": what, "median": statistics.median(values)} for what, values in got.items()]
    for kind in ("texts/s", "images/s"):
        shares = [
            served / bare for served, bare in zip(got[f"{kind}, served"], got[f"{kind}, bare encoder"], strict=True)
        ]
        out.append({"what": f"{kind}: served over bare encoder", "median": statistics.median(shares)})
    one, bare = got["ms, one text served, p50"], got["ms, one text in-process: tokenise, encode, search"]
    out.append({"what": "one text: served over in-process", "median": statistics.median(np.divide(one, bare).tolist())})
    seen["load_average_after"] = report.conditions()["load_average"]
    report.save("encode", seen, out, given.out)


def in_turn(rows: list[Any], turn: int, count: int) -> list[Any]:
    start = turn * count % (len(rows) - count)
    return rows[start : start + count]


def decode(encoder: DualEncoder, file: bytes) -> Any:
    return encoder.preprocess(open_image(file, min(encoder.image_size)).image)


def rate(work: Callable[[int], object], items: int, threads: int, seconds: float) -> float:
    """Items a second of `threads` threads that each call `work` again and again."""
    until = time.perf_counter() + seconds
    done = [0] * threads

    def run(number: int) -> None:
        while time.perf_counter() < until:
            work(done[number] * threads + number)
            done[number] += 1

    began = time.perf_counter()
    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(done) * items / (time.perf_counter() - began)


def _median_ms(work: Callable[[int], object], seconds: float) -> float:
    until = time.perf_counter() + seconds
    times: list[float] = []
    while time.perf_counter() < until:
        began = time.perf_counter()
        work(len(times))
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


if __name__ == "__main__":
    main()
