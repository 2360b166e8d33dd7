"""Notice new snapshots: what CURRENT names is looked at now and then, and switched to."""

from __future__ import annotations

import asyncio
import logging

from prometheus_client import Counter

from service.engine import Engine
from vector_index import VectorIndexError

SWITCHES = Counter("crossmodal_snapshot_switches_total", "New snapshots found, by what came of them", ["result"])

log = logging.getLogger(__name__)


async def watch_snapshots(engine: Engine, seconds: float) -> None:
    """Look every so often, until cancelled. What cannot be served is told once, and looked at again all the same."""
    told = ""
    while True:
        await asyncio.sleep(seconds)
        try:
            if await engine.reload():
                SWITCHES.labels("switched").inc()
            told = ""
        except (VectorIndexError, OSError) as error:
            if str(error) != told:
                told = str(error)
                SWITCHES.labels("refused").inc()
                log.error("a new snapshot is refused, %s keeps serving: %s", engine.snapshot.name, error)
