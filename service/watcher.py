"""Notice new snapshots: which one is live is looked at now and then, and switched to."""

from __future__ import annotations

import asyncio

from prometheus_client import Counter

from service import logs
from service.engine import Engine
from vector_index import StoreUnavailable

SWITCHES = Counter("crossmodal_snapshot_switches_total", "New snapshots found, by what came of them", ["result"])
_SWITCHED, _REFUSED = (SWITCHES.labels(result) for result in ("switched", "refused"))  # from 0 on

_SELDOM = 300.0  # seconds

log = logs.logger("crossmodal.watcher")


async def watch_snapshots(engine: Engine, seconds: float) -> None:
    """Look every so often, until cancelled.

    What cannot be served is told once, and read again more and more seldom: it may not have come whole yet.
    """
    told, pause = "", seconds
    while True:
        await asyncio.sleep(pause)
        try:
            if await engine.reload():
                _SWITCHED.inc()
            told, pause = "", seconds
        except StoreUnavailable:
            continue  # told where it was noticed
        except Exception as error:  # whatever it is, memory that runs out too: the next one may be good
            pause = min(2 * pause, max(seconds, _SELDOM))
            if (reason := str(error) or type(error).__name__) != told:
                told = reason
                _REFUSED.inc()
                log.error("a new snapshot is refused", reason=told, keeps_serving=engine.snapshot.name)
