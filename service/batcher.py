"""Threads that work in batches: they start at once when idle, and what arrives meanwhile is the next batch."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from prometheus_client import Histogram

from service import timeline

Item = TypeVar("Item")
Result = TypeVar("Result")

ITEMS = Histogram("crossmodal_batch_items", "Items a batch", ["stage"], buckets=(1, 2, 4, 8, 16, 32, 64, 128))

_FORGET = 0.05  # of the batches before, at every batch, in what a unit of cost is taken to need


@dataclass(slots=True)
class _Job(Generic[Item, Result]):
    item: Item
    cost: int
    future: asyncio.Future[Result]
    mark: timeline.Mark | None


@dataclass
class Lane(Generic[Item, Result]):
    """Call it with an item and its cost: the future of its result.

    `work` sees items of `budget` cost together, or one that alone costs more, and gives a result for each; of
    `crowded` cost, where so much waits here and in every other lane that is not empty.
    """

    name: str
    work: Callable[[Sequence[Item]], Sequence[Result]]
    budget: int
    crowded: int
    wake: Callable[[], None]
    waiting: deque[_Job[Item, Result]] = field(default_factory=deque)
    items: int = 0  # submitted and neither done nor cancelled
    pending: int = 0  # their cost
    _took: float = 0.0
    _cost: float = 0.0

    @property
    def ahead(self) -> int:
        """Cost of what waits."""
        return sum(job.cost for job in list(self.waiting))

    def __call__(self, item: Item, cost: int = 1) -> asyncio.Future[Result]:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.items += 1
        self.pending += cost

        def settle(_: asyncio.Future[Result]) -> None:
            self.items -= 1
            self.pending -= cost

        future.add_done_callback(settle)
        self.waiting.append(_Job(item, cost, future, timeline.mark()))
        self.wake()
        return future

    def seconds(self, cost: int) -> float:
        """What one worker needs for so much cost, by its last batches; 0 before the first."""
        return cost * self._took / self._cost if self._cost else 0.0

    def measured(self, cost: int, seconds: float) -> None:
        """One batch of so much cost took a worker so long."""
        self._took = (1 - _FORGET) * self._took + seconds
        self._cost = (1 - _FORGET) * self._cost + cost


class Batcher:
    """Runs functions over lists on `workers` threads of its own. Submit from one event loop.

    A worker takes its next batch by itself, without waiting for the event loop: oldest first, as much as a lane's
    budget allows, and no more than its share where other workers are idle too. What was cancelled before its batch
    starts (the client has gone, the time is up) is dropped. A batch that fails is tried again item by item, so that
    one bad item fails alone.
    """

    def __init__(
        self,
        name: str,
        workers: int = 1,
        prepare: Callable[[], object] | None = None,
        finish: Callable[[], object] | None = None,
    ) -> None:
        """`prepare` is called first and `finish` last on every thread."""
        self._prepare, self._finish = prepare, finish
        self.lanes: list[Lane[Any, Any]] = []
        self.workers = workers
        self._turn = 0
        self._changed = threading.Condition()
        self._waking = self._closed = False
        self._idle = workers
        self._began: dict[int, float] = {}
        for number in range(workers):
            threading.Thread(target=self._serve, args=(number,), name=f"{name}-{number}", daemon=True).start()

    def lane(
        self, name: str, work: Callable[[Sequence[Item]], Sequence[Result]], budget: int, crowded: int = 0
    ) -> Lane[Item, Result]:
        """A queue of items for `work`; the lanes of a batcher take turns."""
        lane: Lane[Item, Result] = Lane(name, work, budget, max(budget, crowded), self._wake_soon)
        self.lanes.append(lane)
        return lane

    def wait(self, lane: Lane[Any, Any]) -> float:
        """Seconds until all that `lane` now holds is done, the other lanes' turns in between included; an estimate."""
        seconds = lane.seconds(lane.pending)
        for other in self.lanes:
            if other.pending and other is not lane:
                turns = lane.pending // lane.budget + 1
                seconds += min(other.seconds(other.pending), turns * other.seconds(other.budget))
        return seconds / self.workers

    @property
    def busy_for(self) -> float:
        """Seconds that the longest of the batches now at work has taken; 0 when idle."""
        return max((time.monotonic() - began for began in list(self._began.values())), default=0.0)

    @property
    def waiting(self) -> int:
        """Items not yet begun."""
        return sum(len(lane.waiting) for lane in self.lanes)

    def close(self) -> None:
        """Let the threads end once they have finished what they are at."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wake_soon(self) -> None:
        if not self._waking:  # once all that is ready to run has submitted: a burst is one batch
            self._waking = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._waking = False
        with self._changed:
            self._changed.notify(self.waiting)

    def _serve(self, number: int) -> None:
        if self._prepare:
            self._prepare()
        try:
            self._work(number)
        finally:
            if self._finish:
                self._finish()

    def _work(self, number: int) -> None:
        while True:
            with self._changed:
                while not (batch := self._next()):
                    if self._closed:
                        return
                    self._changed.wait()
                self._idle -= 1
                self._began[number] = time.monotonic()
            try:
                self._run(*batch)
            finally:
                with self._changed:
                    self._idle += 1
                    del self._began[number]

    def _next(self) -> tuple[Lane[Any, Any], list[_Job[Any, Any]]] | None:
        """The next batch; the lanes take turns."""
        if self._closed:
            return None
        for _ in self.lanes:
            lane = self.lanes[self._turn % len(self.lanes)]
            self._turn += 1
            share = lane.budget
            if lane.crowded > share and all(not each.waiting or each.ahead >= each.crowded for each in self.lanes):
                share = lane.crowded
            if self._idle > 1:
                share = min(share, -(-lane.ahead // self._idle))
            jobs: list[_Job[Any, Any]] = []
            spent = 0
            while lane.waiting and (not jobs or spent + lane.waiting[0].cost <= share):
                job = lane.waiting.popleft()
                if not job.future.done():
                    jobs.append(job)
                    spent += job.cost
            if jobs:
                return lane, jobs
        return None

    def _run(self, lane: Lane[Any, Any], jobs: list[_Job[Any, Any]]) -> None:
        ITEMS.labels(lane.name).observe(len(jobs))
        began = time.monotonic()
        try:
            with timeline.batch(lane.name, jobs):
                results = lane.work([job.item for job in jobs])
            if len(results) != len(jobs):
                raise RuntimeError(f"{lane.name}: {len(results)} results for {len(jobs)} items")
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._run(lane, [job])
                return
            _post(jobs, [error], _fail)
            del jobs  # the error holds this frame; with the futures, which hold the error, that would be a circle
        else:
            with self._changed:
                lane.measured(sum(job.cost for job in jobs), time.monotonic() - began)
            _post(jobs, results, _answer)


def _post(jobs: list[_Job[Any, Any]], values: Sequence[Any], tell: Callable[[asyncio.Future[Any], Any], None]) -> None:
    def deliver() -> None:
        for job, value in zip(jobs, values, strict=True):
            if not job.future.done():
                tell(job.future, value)

    with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits
        jobs[0].future.get_loop().call_soon_threadsafe(deliver)


def _answer(future: asyncio.Future[Any], value: Any) -> None:
    future.set_result(value)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    future.set_exception(error)
