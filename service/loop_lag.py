"""How late the event loop is: the metric that shows that something blocks it."""

from __future__ import annotations

import asyncio
import time

from prometheus_client import Histogram

_EVERY = 0.02  # seconds

LAG = Histogram(
    "crossmodal_loop_lag_seconds",
    "Seconds by which the event loop woke too late",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
)


async def watch_loop() -> None:
    """Sleep and observe by how much it was longer, until cancelled."""
    while True:
        due = time.monotonic() + _EVERY
        await asyncio.sleep(_EVERY)
        LAG.observe(max(0.0, time.monotonic() - due))
