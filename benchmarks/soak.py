"""Texts, pictures, filters, batches, bad input, reloads, slow clients and clients that leave, all at once, for long.

Memory, threads and files are looked at all along: after the first quarter none may grow. Nothing may be answered 5xx
but the 503 of a service that is busy. The load is about half of what two cores can do.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import dual_encoder
from benchmarks import report
from benchmarks.common import ours, parser
from benchmarks.fixtures import any_length, captions, jpegs, make_index, marked
from benchmarks.open_loop import Clients, Pick, mix, offer, post
from benchmarks.overload import held, queued
from benchmarks.process import Service

_SEARCH, _TARGETS = "/v1/search/images", ("/v1/search/images", "/v1/search/texts")
_GROWTH = 1.05  # of memory, from the first quarter's end to the last quarter's


def main() -> None:
    options = parser(__doc__)
    options.set_defaults(seconds=1800)
    options.add_argument("--rate", type=float, default=120, help="requests a second")
    options.add_argument("--count", type=int, default=20_000, help="of indexed vectors")
    given = options.parse_args()
    tiny = Path(dual_encoder.__file__).parent / "tiny"
    # Two snapshots of one model, which take turns.
    folders = [make_index(given.folder / f"soak-{given.count}-{n}", tiny, given.count, seed=n) for n in (0, 1)]
    index = _both(given.folder / f"soak-{given.count}", folders)
    seen = report.conditions()
    with ours(index, CROSSMODAL_CACHE_BYTES=str(2**20), CROSSMODAL_BODY_TIMEOUT="3") as service:
        rows = asyncio.run(_soak(service, index, given))
    seen["load_average_after"] = report.conditions()["load_average"]
    report.save("soak", seen, rows, given.out)
    if complaints := _complaints(rows):
        sys.exit("; ".join(complaints))


def _both(out: Path, folders: list[Path]) -> Path:
    import shutil

    if not out.is_dir():
        for folder in folders:
            shutil.copytree(folder, out, dirs_exist_ok=True)
    return out


def _requests(seed: int) -> Pick:
    chance = random.Random(seed)

    def ask(body: Any, path: str = "") -> bytes:
        return post(path or chance.choice(_TARGETS), body if isinstance(body, bytes) else json.dumps(body).encode())

    words = captions(5000, seed + 5)
    files = [*marked(jpegs(8, 0.3, seed), 400), *marked(jpegs(2, 12, seed), 8)]
    encoded = [base64.b64encode(file).decode() for file in files]
    texts = [ask({"query": {"text": text}, "k": chance.randint(1, 100)}) for text in words]
    long = [ask({"query": {"text": text}, "include": ["metadata", "captions"]}) for text in any_length(500, seed + 6)]
    pictures = [ask({"query": {"image": {"base64": each}}}) for each in encoded]
    filters = [
        ask({"query": {"text": text}, "filter": {"year": {"$gte": 1990 + n % 40}}, "exact": n % 5 == 0}, _SEARCH)
        for n, text in enumerate(words[:500])
    ]
    batches = [ask({"queries": [{"text": text} for text in chance.sample(words, 16)]}) for _ in range(100)]
    deep = [ask({"query": {"text": text}, "k": 5000, "include": ["metadata"]}) for text in words[:50]]
    vectors = [ask({"input": chance.sample(words, 8)}, "/v1/embeddings") for _ in range(100)]
    ranks = [
        ask({"image": {"base64": chance.choice(encoded[:50])}, "texts": words[n : n + 5]}, "/v1/rank")
        for n in range(100)
    ]
    bad = [
        ask(b"{"),
        ask(b"[" * 100_000),
        ask({"query": {"text": "x"}, "k": 0}),
        ask({"query": {"image": {"base64": "AAAA"}}}),
        ask({"query": {"text": "x"}, "filter": {"nothing": 1}}, _SEARCH),
        *(ask({"query": {"image": {"base64": each[: 4 * chance.randrange(500, 2500)]}}}) for each in encoded[:50]),
    ]
    return mix(
        (50, texts),
        (5, long),
        (12, pictures),
        (8, filters),
        (2, batches),
        (1, deep),
        (3, vectors),
        (2, ranks),
        (10, bad),
    )


async def _soak(service: Service, index: Path, given: Any) -> list[dict[str, Any]]:
    pick, clients = _requests(given.seed), Clients(service.port)
    rows, began = [], time.monotonic()
    others = [asyncio.create_task(_switch(service, index, clients)), asyncio.create_task(_dawdle(service))]
    seconds = max(5.0, given.seconds / 40)
    number = 0
    while time.monotonic() - began < given.seconds:
        number += 1
        load = await offer(clients, pick, given.rate, seconds, leaving=0.1, seed=given.seed + number)
        rows.append(
            {
                "minute": round((time.monotonic() - began) / 60, 2),
                **held(service),
                "queued_s": queued(service),
                "p99_ms": load.percentile_ms(99),
                "statuses": load.statuses,
            }
        )
        print(rows[-1], flush=True)
    for other in others:
        other.cancel()
    clients.close()
    return rows


async def _switch(service: Service, index: Path, clients: Clients) -> None:
    """The other snapshot becomes the live one every three seconds."""
    names = sorted(path.name for path in (index / "snapshots").iterdir())
    number = 0
    while True:
        await asyncio.sleep(3)
        number += 1
        fresh = index / "CURRENT.new"
        fresh.write_text(names[number % len(names)] + "\n")
        fresh.replace(index / "CURRENT")
        status = await clients.ask(post("/v1/index/reload", b""))
        if status != 200:
            print(f"a reload was answered {status}", flush=True)


async def _dawdle(service: Service) -> None:
    """Connections that send half of something, a few a second, and are hung up on."""
    halves = [b"", b"GET / HT", b"POST /v1/search/images HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\n{"]
    open_: list[asyncio.StreamWriter] = []
    number = 0
    try:
        while True:
            await asyncio.sleep(0.25)
            number += 1
            _, writer = await asyncio.open_connection("127.0.0.1", service.port)
            writer.write(halves[number % 3])
            open_.append(writer)
            if len(open_) > 40:
                open_.pop(0).close()
    finally:
        for writer in open_:
            writer.close()


def _complaints(rows: list[dict[str, Any]]) -> list[str]:
    quarter = max(1, len(rows) // 4)
    found = []
    for what, most in (("rss_mb", _GROWTH), ("threads", 1.0), ("files", 1.2)):
        early = max(row[what] for row in rows[quarter : 2 * quarter] or rows[:quarter])
        late = min(row[what] for row in rows[-quarter:])
        if late > most * early:
            found.append(f"{what} grew from {early:.0f} to {late:.0f}")
    wrong = {status for row in rows for status in row["statuses"] if status >= "500" and status not in ("503", "gone")}
    return found + [f"there was a {status}" for status in sorted(wrong)]


if __name__ == "__main__":
    main()
