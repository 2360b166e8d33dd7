"""Three times as many requests as the service can answer: how much of its capacity is left, and what it costs.

Capacity is what a closed loop of 32 clients gets of the same load. Then requests come in an open loop (random times,
answers or not) at three times that rate, each with a deadline; then the same with clients of whom half leave half-way.

A picture is as dear as several texts, and they take turns, so that in an overload of both more of what is answered are
pictures. Answers are therefore counted as work, each kind by what a closed loop of it alone gets: `of_alone` is 1 where
all of the service is used as well as by one kind. `of_capacity` is that, of the capacity's, and `per_core_of_capacity`
the same for each core that the service got: the load generator takes a part of them, more in the overload.

Goals: goodput at least 0.9 of capacity, p99 of what is admitted within the deadline, memory flat, idle again in 2 s.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks import report
from benchmarks.common import model_and_index, ours, parser
from benchmarks.fixtures import captions, jpegs, make_index, marked
from benchmarks.open_loop import Clients, Outcome, Pick, Request, drive, mix, offer, post
from benchmarks.process import Service

KINDS = ("texts", "pictures")


def main() -> None:
    options = parser(__doc__)
    options.set_defaults(seconds=600)
    options.add_argument("--model", choices=["tiny", "vit-b-32"], default="vit-b-32")
    options.add_argument("--loads", nargs="+", default=["texts", "pictures", "both"])
    options.add_argument("--times", type=float, default=3.0, help="of the capacity")
    options.add_argument("--deadline", type=float, default=2.0, help="seconds, of each request")
    options.add_argument("--count", type=int, default=20_000, help="of indexed vectors")
    given = options.parse_args()
    if given.model == "tiny":
        import dual_encoder

        index = make_index(
            given.folder / f"tiny-{given.count}", Path(dual_encoder.__file__).parent / "tiny", given.count
        )
    else:
        _, index = model_and_index(given.folder, given.count, given.seed)
    seen = report.conditions()
    rows: list[dict[str, Any]] = []
    texts, pictures = _requests(given.deadline, given.seed)
    loads = {"texts": mix((1, texts)), "pictures": mix((1, pictures)), "both": mix((9, texts), (1, pictures))}
    alone: dict[str, float] = {}  # requests a second of each kind
    with ours(index, CROSSMODAL_QUEUE_SECONDS="1") as service:
        for name, pick in loads.items():
            if name in given.loads or ("both" in given.loads and name in KINDS):
                rows += asyncio.run(_measure(service, name, pick, alone, given))
    seen["load_average_after"] = report.conditions()["load_average"]
    report.save("overload", {**seen, "model": given.model}, rows, given.out)


def _requests(deadline: float, seed: int) -> tuple[list[Request], list[Request]]:
    """Texts and pictures as queries."""
    limit = {"X_Request_Timeout": f"{deadline:g}"}
    path = "/v1/search/images"
    queries: tuple[list[Any], list[Any]] = (
        [{"text": text} for text in captions(20_000, seed + 1)],
        [{"image": {"base64": base64.b64encode(file).decode()}} for file in marked(jpegs(24, 0.3, seed), 2000)],
    )
    texts, pictures = (
        [post(path, json.dumps({"query": query}).encode(), kind=kind, **limit) for query in each]
        for kind, each in zip(KINDS, queries, strict=True)
    )
    return texts, pictures


async def _measure(
    service: Service, name: str, pick: Pick, alone: dict[str, float], given: Any
) -> list[dict[str, Any]]:
    """`alone` takes in the capacity for a kind, which is all that is measured of one that was not asked for."""
    clients = Clients(service.port)
    await drive(clients, pick, 32, 5)  # warms up, and teaches the service what its work costs
    idle = await _idle_ms(clients, pick)
    began = service.processor
    load = await drive(clients, pick, 32, min(20.0, given.seconds))
    most = load.per_second()
    if name in KINDS:
        alone[name] = most
    if name not in given.loads:
        clients.close()
        return []
    capacity = _row(name, "capacity, 32 clients", service, load, alone, service.processor - began)
    rows = [capacity]
    for what, leaving in (("overload", 0.0), ("overload, half leave", 0.5)):
        before, began = held(service), service.processor
        rate, seconds = given.times * most, given.seconds if not leaving else min(given.seconds, 60)
        load = await offer(clients, pick, rate, seconds, leaving=leaving)
        row = _row(name, what, service, load, alone, service.processor - began)
        row["of_capacity"] = row["of_alone"] / capacity["of_alone"]
        row["per_core_of_capacity"] = row["of_capacity"] / (row["service_cores"] / capacity["service_cores"])
        row |= {"offered_per_s": rate, "recovery_s": load.after + await _recovery(clients, pick, idle)}
        await asyncio.sleep(1)
        row |= {f"{key}_before": value for key, value in before.items()} | held(service)
        rows.append(row | {"queued_after_s": queued(service)})
        print(rows[-1], flush=True)
    clients.close()
    return rows


def _row(
    name: str, what: str, service: Service, load: Outcome, alone: dict[str, float], processor: float
) -> dict[str, Any]:
    """`processor` are the seconds that the service computed meanwhile."""
    return {
        "load": name,
        "what": what,
        "seconds": load.seconds,
        "good_per_s": load.per_second(),
        **{f"good_{kind}_per_s": load.good[kind] / load.seconds for kind in load.good},
        "of_alone": sum(count / load.seconds / alone[kind] for kind, count in load.good.items()),
        "service_cores": processor / load.seconds,
        "generator_cores": load.processor / load.seconds,
        "p50_ms": load.percentile_ms(50),
        "p99_ms": load.percentile_ms(99),
        "refused_p50_ms": load.percentile_ms(50, 503),
        "refused_p99_ms": load.percentile_ms(99, 503),
        "answered": load.count(200),
        "generator_late_s": load.late,
        "statuses": load.statuses,
        **held(service),
    }


def held(service: Service) -> dict[str, float]:
    """Memory, files and threads of all its processes."""
    processes = [psutil.Process(service.process.pid)]
    processes += processes[0].children(recursive=True)
    return {
        "rss_mb": service.resident / 2**20,
        "files": sum(each.num_fds() for each in processes),
        "threads": sum(each.num_threads() for each in processes),
    }


def queued(service: Service) -> float:
    """Seconds of work that wait, by its own metric."""
    lines = service.get("/metrics").decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("crossmodal_queued_seconds{"))


async def _idle_ms(clients: Clients, pick: Pick) -> float:
    alone = await drive(clients, pick, 1, 2)
    return alone.percentile_ms(50)


async def _recovery(clients: Clients, pick: Pick, idle_ms: float, patience: float = 30) -> float:
    """Seconds until five requests in a row are answered, each within 50 ms of what an idle service takes."""
    import random

    chance, began, streak, since = random.Random(1), time.perf_counter(), 0, 0.0
    while streak < 5 and time.perf_counter() - began < patience:
        asked = time.perf_counter()
        status = await clients.ask(pick(chance))
        good = status == 200 and (time.perf_counter() - asked) * 1e3 < 2 * idle_ms + 50
        if not good:
            streak = 0
            await asyncio.sleep(0.02)
        else:
            since = asked - began if not streak else since
            streak += 1
    return since if streak == 5 else patience


if __name__ == "__main__":
    main()
