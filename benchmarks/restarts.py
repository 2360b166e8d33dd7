"""Two workers under a constant load: all replaced gracefully (SIGHUP), then one after the other killed (SIGKILL).

Clients keep their connections and do not ask again, so every request that gets no answer is seen. Graceful restarts may
lose none; a kill none but those on connections of the worker that was killed. Twenty workers are replaced each way.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

import dual_encoder
from benchmarks import report
from benchmarks.common import ours, parser
from benchmarks.fixtures import captions, make_index
from benchmarks.open_loop import GONE, _Connection, post
from benchmarks.process import Service

_PATIENCE = 120  # seconds for workers to be replaced


class Load:
    """`clients` that each ask, have the answer, and wait a while; `lost` has the local ports of what got none."""

    def __init__(self, port: int, clients: int, pause: float, seed: int) -> None:
        self.statuses: Counter[int] = Counter()
        self.lost: list[int] = []
        self.in_flight: set[int] = set()  # ports
        self.connected: dict[int, float] = {}  # when, by port
        self._port, self._pause = port, pause
        self._over = False
        texts = captions(500, seed)
        self._requests = [post("/v1/search/images", f'{{"query": {{"text": "{text}"}}}}'.encode()) for text in texts]
        self._tasks = [asyncio.create_task(self._ask(random.Random(f"{seed} {n}"))) for n in range(clients)]

    async def stop(self) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _ask(self, chance: random.Random) -> None:
        connection = None
        while not self._over:
            await asyncio.sleep(chance.expovariate(1 / self._pause))
            if connection is None or connection.transport.is_closing():
                loop = asyncio.get_running_loop()
                connection = (await loop.create_connection(_Connection, "127.0.0.1", self._port))[1]
                self.connected[connection.transport.get_extra_info("sockname")[1]] = time.monotonic()
            port = connection.transport.get_extra_info("sockname")[1]
            self.in_flight.add(port)
            status = await connection.ask(chance.choice(self._requests))
            self.in_flight.discard(port)
            self.statuses[status] += 1
            if status == GONE:
                self.lost.append(port)
            elif chance.random() < 0.1:  # so that new workers get some
                connection.transport.close()
        if connection:
            connection.transport.close()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--times", type=int, default=20, help="workers replaced, each way")
    options.add_argument("--clients", type=int, default=40)
    options.add_argument("--pause", type=float, default=0.4, help="mean seconds between an answer and the next request")
    given = options.parse_args()
    tiny = Path(dual_encoder.__file__).parent / "tiny"
    index = make_index(given.folder / "soak-20000-0", tiny, 20_000, seed=0)
    seen = report.conditions()
    with ours(index, "--workers", "2") as service:
        rows = [asyncio.run(_replace(service, how, given)) for how in ("graceful", "killed")]
    seen["load_average_after"] = report.conditions()["load_average"]
    report.save("restarts", seen, rows, given.out)
    if complaints := [f"{row['how']}: {row['lost_elsewhere']} requests lost" for row in rows if row["lost_elsewhere"]]:
        sys.exit("; ".join(complaints))


async def _replace(service: Service, how: str, given: Any) -> dict[str, Any]:
    """`lost_elsewhere` are those requests without an answer that no killed worker had."""
    await _until(lambda: len(_workers(service)) == 2)
    load = Load(service.port, given.clients, given.pause, given.seed)
    await asyncio.sleep(2)
    began, doomed, in_flight, seconds, replaced = time.monotonic(), set[int](), 0, list[float](), 0
    while replaced < given.times:
        before, started = await asyncio.to_thread(_workers, service), time.monotonic()
        if how == "graceful":
            service.process.send_signal(signal.SIGHUP)
            replaced += 2
            await _until(lambda before=before: len(_workers(service) - before) == 2 == len(_workers(service)))
        else:
            victim = sorted(before)[replaced % 2]
            ports, asking = await asyncio.to_thread(_kill, victim, load)
            in_flight += asking
            doomed |= ports
            replaced += 1
            await _until(lambda before=before: len(_workers(service) - before) == 1)
            await _until(lambda victim=victim, before=before: _accepts(_workers(service) - before))
        seconds.append(time.monotonic() - started)
        await asyncio.sleep(0.5)
    await load.stop()
    passed = time.monotonic() - began
    elsewhere = [port for port in load.lost if port not in doomed]
    row = {
        "how": how, "workers": replaced, "per_second": round(sum(load.statuses.values()) / passed, 1),
        "statuses": {str(status) if status else "gone": count for status, count in load.statuses.items()},
        "in_flight_on_the_killed": in_flight, "lost": len(load.lost), "lost_elsewhere": len(elsewhere),
        "seconds_each": round(sum(seconds) / len(seconds), 1),
    }  # fmt: skip
    print(row, flush=True)
    return row


def _kill(victim: int, load: Load) -> tuple[set[int], int]:
    """The ports of its clients, and of who connected while those were looked up; how many waited for an answer."""
    began = time.monotonic()
    ports = {each.raddr.port for each in psutil.Process(victim).net_connections() if each.raddr}
    asking = len(ports & load.in_flight)
    os.kill(victim, signal.SIGKILL)
    return ports | {port for port, at in list(load.connected.items()) if at >= began}, asking


def _workers(service: Service) -> set[int]:
    found = set()
    for child in psutil.Process(service.process.pid).children():
        try:
            if child.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(child.cmdline()):
                found.add(child.pid)
        except psutil.Error:  # it is ending
            continue
    return found


def _accepts(workers: set[int]) -> bool:
    """Whether each has taken a connection."""
    return all(any(each.raddr for each in psutil.Process(pid).net_connections("tcp")) for pid in workers)


async def _until(condition: Any) -> None:
    until = time.monotonic() + _PATIENCE
    while not await asyncio.to_thread(condition):  # which looks through processes, while clients go on
        if time.monotonic() > until:
            raise TimeoutError("the workers were not replaced")
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    main()
