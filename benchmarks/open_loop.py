"""Requests that come when they come, timed by what was answered: wrk knows no more than one latency for all. Some
clients leave half-way.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

GONE = 0  # stands for the status of a request whose client has left or whose connection broke


class Request(bytes):
    """All that is sent, and what kind of request it is counted as."""

    kind = ""


@dataclass
class Outcome:
    """Latencies in seconds by status, from when each was sent.

    `seconds` are from the first request to the last answer; `late` is how much later than due one was sent, at worst,
    and `after` how long after the last one all were answered. `good` counts answers of status 200 by kind of request;
    `processor` are seconds that the generator itself took.
    """

    seconds: float = 0.0
    late: float = 0.0
    after: float = 0.0
    latencies: dict[int, list[float]] = field(default_factory=dict)
    good: Counter[str] = field(default_factory=Counter)
    processor: float = 0.0

    def note(self, request: bytes, status: int, latency: float) -> None:
        self.latencies.setdefault(status, []).append(latency)
        if status == 200:
            self.good[request.kind if isinstance(request, Request) else ""] += 1

    def count(self, status: int) -> int:
        return len(self.latencies.get(status, ()))

    def per_second(self, status: int = 200) -> float:
        return self.count(status) / self.seconds

    def percentile_ms(self, percent: float, status: int = 200) -> float:
        found = self.latencies.get(status)
        return float(np.percentile(found, percent)) * 1e3 if found else float("nan")

    @property
    def statuses(self) -> dict[str, int]:
        return {str(status) if status else "gone": len(all) for status, all in sorted(self.latencies.items())}


class _Connection(asyncio.Protocol):
    """One request at a time over HTTP/1.1."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.waiting: asyncio.Future[int] | None = None
        self._seen = bytearray()
        self._end: int | None = None
        self._close = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def ask(self, request: bytes) -> asyncio.Future[int]:
        self.waiting = asyncio.get_running_loop().create_future()
        self._seen.clear()
        self._end = None
        self.transport.write(request)
        return self.waiting

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if self._end is None:
            head, found, _ = bytes(self._seen).partition(b"\r\n\r\n")
            if not found:
                return
            lower = head.lower()
            length = lower.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            self._close = b"connection: close" in lower
            self._end = len(head) + 4 + int(length or 0)
        if len(self._seen) >= self._end and self.waiting and not self.waiting.done():
            self.waiting.set_result(int(self._seen[9:12]))
            if self._close:
                self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self.waiting and not self.waiting.done():
            self.waiting.set_result(GONE)


class Clients:
    """Connections to one port, kept open between requests."""

    def __init__(self, port: int, most: int = 2000) -> None:
        self._port, self._most = port, most
        self._free: list[_Connection] = []
        self.open = 0

    async def ask(self, request: bytes, leave_after: float | None = None) -> int:
        """The status; GONE where the client leaves after so many seconds or the connection breaks."""
        connection = await self._connection()
        if connection is None:
            return GONE
        answer = connection.ask(request)
        try:
            return await asyncio.wait_for(answer, leave_after if leave_after is not None else 120)
        except TimeoutError:
            connection.transport.abort()
            return GONE
        finally:
            if connection.transport.is_closing():
                self.open -= 1
            else:
                self._free.append(connection)

    async def _connection(self) -> _Connection | None:
        while self._free:
            connection = self._free.pop()
            if not connection.transport.is_closing():
                return connection
            self.open -= 1
        if self.open >= self._most:
            return None
        self.open += 1
        try:
            return (await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", self._port))[1]
        except OSError:
            self.open -= 1
            return None

    def close(self) -> None:
        for connection in self._free:
            connection.transport.close()


Pick = Callable[[random.Random], bytes]


async def offer(
    clients: Clients, pick: Pick, rate: float, seconds: float, *, leaving: float = 0.0, seed: int = 0
) -> Outcome:
    """Open loop: `rate` requests a second at random (Poisson) times; a share `leaving` of clients goes half-way."""
    chance, outcome = random.Random(seed), Outcome()
    running: set[asyncio.Task[None]] = set()
    began = due = time.perf_counter()
    processor = time.process_time()

    async def one(due: float, request: bytes, leave_after: float | None) -> None:
        sent = time.perf_counter()
        outcome.late = max(outcome.late, sent - due)
        status = await clients.ask(request, leave_after)
        outcome.note(request, status, time.perf_counter() - sent)

    while (due := due + chance.expovariate(rate)) < began + seconds:
        early = due - time.perf_counter()
        if early > 0.001:
            await asyncio.sleep(early)
        leave_after = chance.expovariate(20) if chance.random() < leaving else None
        task = asyncio.create_task(one(due, pick(chance), leave_after))
        running.add(task)
        task.add_done_callback(running.discard)
    ended = time.perf_counter()
    if running:
        await asyncio.wait(running)
    outcome.processor = time.process_time() - processor
    outcome.after = time.perf_counter() - ended
    outcome.seconds = time.perf_counter() - began
    return outcome


async def drive(clients: Clients, pick: Pick, number: int, seconds: float, seed: int = 0) -> Outcome:
    """Closed loop: each of `number` clients sends its next request once it has an answer."""
    outcome, start, processor = Outcome(), time.perf_counter(), time.process_time()

    async def one(which: int) -> None:
        chance = random.Random(f"{seed} {which}")
        while (began := time.perf_counter()) < start + seconds:
            request = pick(chance)
            outcome.note(request, await clients.ask(request), time.perf_counter() - began)

    await asyncio.gather(*map(one, range(number)))
    outcome.processor = time.process_time() - processor
    outcome.seconds = time.perf_counter() - start
    return outcome


def post(path: str, body: bytes, content_type: str = "application/json", kind: str = "", **headers: str) -> Request:
    """A whole request."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {content_type}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    request = Request("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body)
    request.kind = kind
    return request


def mix(*weighted: tuple[float, Sequence[bytes]]) -> Pick:
    """Requests at random, each list as often as its weight says."""
    lists, weights = [each for _, each in weighted], [weight for weight, _ in weighted]
    return lambda chance: chance.choice(chance.choices(lists, weights)[0])
