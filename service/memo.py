"""Vectors by key: remembered within a number of bytes, and computed once for all who ask at the same time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter

Vector = NDArray[np.float32]

LOOKUPS = Counter("crossmodal_cache_lookups_total", "Vectors asked for", ["kind", "result"])
_BESIDES = 400  # bytes that an entry takes besides its key and its vector


@dataclass
class _Running:
    future: asyncio.Future[Vector]
    waiting: set[asyncio.Future[Vector]]  # one for each who does: what they share must not end with one of them


class Memo:
    """The least recently used go first. Use from one event loop."""

    def __init__(self, kind: str, most_bytes: int) -> None:
        """`kind` labels the metrics; with 0 bytes nothing is remembered, and what runs is still shared."""
        self._most = most_bytes
        self._kept: OrderedDict[Hashable, Vector] = OrderedDict()
        self._running: dict[Hashable, _Running] = {}
        self.bytes = 0
        self._count = {result: LOOKUPS.labels(kind, result) for result in ("hit", "shared", "miss")}

    async def get(self, key: bytes, start: Callable[[], asyncio.Future[Vector]]) -> Vector:
        """The vector of `key`, float32 (dim,); `start` begins to compute it.

        What is computed is cancelled when the last who waits for it is.
        """
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            self._count["hit"].inc()
            return kept
        running = self._running.get(key)
        self._count["shared" if running else "miss"].inc()
        if running is None:
            running = self._running[key] = _Running(start(), set())
            running.future.add_done_callback(partial(self._finish, key, running.waiting))
        vector: asyncio.Future[Vector] = running.future.get_loop().create_future()
        running.waiting.add(vector)
        try:
            return await vector
        finally:
            running.waiting.discard(vector)
            if not running.waiting and not running.future.done():
                del self._running[key]
                running.future.cancel()
            del running, vector  # an error holds this frame; with futures, which hold the error, that would be a circle

    def _finish(self, key: bytes, waiting: set[asyncio.Future[Vector]], future: asyncio.Future[Vector]) -> None:
        running = self._running.get(key)
        if running is not None and running.future is future:
            del self._running[key]
        still = [each for each in waiting if not each.done()]
        if future.cancelled():
            for each in still:
                each.cancel()
            return
        if (error := future.exception()) is not None:
            for each in still:
                each.set_exception(error)
            return
        vector = future.result()
        for each in still:
            each.set_result(vector)
        size = _size(key, vector)
        if size > self._most:
            return
        if (old := self._kept.pop(key, None)) is not None:
            self.bytes -= _size(key, old)
        self._kept[key] = vector
        self.bytes += size
        while self.bytes > self._most:
            self.bytes -= _size(*self._kept.popitem(last=False))


def _size(key: Hashable, vector: Vector) -> int:
    return len(key) + vector.nbytes + _BESIDES  # type: ignore[arg-type]
