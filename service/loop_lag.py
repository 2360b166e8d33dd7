"""How late the event loop is: the metric that shows that something blocks it, and the bound on what it is given.

Where the model is small, the loop is what a flood of requests fills first: each is some 0.5 ms of its one thread.
"""

from __future__ import annotations

import asyncio
import math
import time

from prometheus_client import Histogram

_EVERY = 0.02  # seconds
_MOST = 0.25  # seconds of the loop's own work that may wait: health checks and small queries wait as long
_FORGET = 0.02  # of what was measured before, at every look

LAG = Histogram(
    "crossmodal_loop_lag_seconds",
    "Seconds by which the event loop woke too late",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
)


class LoopLoad:
    """What the requests in progress still ask of the event loop. Use on that loop."""

    def __init__(self) -> None:
        self.requests = 0  # in progress
        self.begun = 0  # ever
        # Of late: seconds of the loop's thread, and requests begun; as if there had been some, until there have.
        self._took, self._begun = 0.05, 100.0
        self._stretch = 1.0  # seconds that pass while the loop, with work to do, computes for one
        self._lag, self._due = 0.0, math.inf

    @property
    def seconds(self) -> float:
        """Until the loop has done what it has, an estimate."""
        return self.requests * self._took / self._begun * self._stretch

    @property
    def full(self) -> bool:
        """Whether more should be turned away: there is too much to do, and the loop is seen to be late."""
        return self.seconds > _MOST and max(self._lag, time.monotonic() - self._due) > _EVERY

    async def watch(self) -> None:
        """Sleep and observe by how much it was longer, until cancelled."""
        then, computed, begun = time.monotonic(), time.thread_time(), self.begun
        while True:
            self._due = then + _EVERY
            await asyncio.sleep(_EVERY)
            now, cpu = time.monotonic(), time.thread_time()
            passed, spent, started = now - then, cpu - computed, self.begun - begun
            then, computed, begun = now, cpu, self.begun
            self._lag = max(0.0, passed - _EVERY)
            LAG.observe(self._lag)
            if started:
                self._took = (1 - _FORGET) * self._took + spent
                self._begun = (1 - _FORGET) * self._begun + started
            # Only a loop that was busy all along shows how much of a core it gets.
            stretch = passed / spent if passed > 2 * _EVERY and spent > 0 else 1.0
            self._stretch += 0.1 * (min(stretch, 10.0) - self._stretch)
