"""One thread that encodes in batches: it starts at once when idle, and what arrives meanwhile is the next batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class _Lane(Generic[Item, Result]):
    work: Callable[[Sequence[Item]], Sequence[Result]]
    most: int
    waiting: list[tuple[Item, asyncio.Future[Result]]] = field(default_factory=list)


class Batcher:
    """Runs functions over lists, one batch at a time, on a thread of its own. Use from one event loop.

    A batch that fails is tried again item by item, so that one bad item fails alone. Items whose caller has gone
    before their batch starts are dropped.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._lanes: list[_Lane[object, object]] = []
        self._task: asyncio.Task[None] | None = None
        self._busy_since: float | None = None

    def lane(
        self, work: Callable[[Sequence[Item]], Sequence[Result]], most: int
    ) -> Callable[[Sequence[Item]], asyncio.Future[list[Result]]]:
        """A function that submits items to `work`, which sees at most `most` at once and keeps their order."""
        lane: _Lane[Item, Result] = _Lane(work, most)
        self._lanes.append(lane)  # type: ignore[arg-type]

        def submit(items: Sequence[Item]) -> asyncio.Future[list[Result]]:
            loop = asyncio.get_running_loop()
            futures: list[asyncio.Future[Result]] = [loop.create_future() for _ in items]
            lane.waiting.extend(zip(items, futures, strict=True))
            if self._task is None or self._task.done():
                self._task = loop.create_task(self._run())
            return asyncio.gather(*futures)

        return submit

    @property
    def busy_for(self) -> float:
        """Seconds that the batch now encoding has taken; 0 when idle."""
        return time.monotonic() - self._busy_since if self._busy_since else 0.0

    @property
    def waiting(self) -> int:
        """Items not yet begun."""
        return sum(len(lane.waiting) for lane in self._lanes)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        while self.waiting:
            for lane in self._lanes:
                batch, lane.waiting = lane.waiting[: lane.most], lane.waiting[lane.most :]
                batch = [(item, future) for item, future in batch if not future.done()]
                if batch:
                    await self._encode(lane, batch)

    async def _encode(self, lane: _Lane[object, object], batch: list[tuple[object, asyncio.Future[object]]]) -> None:
        loop = asyncio.get_running_loop()
        self._busy_since = time.monotonic()
        try:
            results = await loop.run_in_executor(self._thread, lane.work, [item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    await self._encode(lane, [one])
                return
            if not batch[0][1].done():
                batch[0][1].set_exception(error)
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
        finally:
            self._busy_since = None
