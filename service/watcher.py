"""Notice new snapshots: which one is live is looked at now and then, and switched to."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal

from prometheus_client import Counter

from service import logs, shared_folder
from service.engine import Engine
from vector_index import StoreUnavailable

SWITCHES = Counter("crossmodal_snapshot_switches_total", "New snapshots found, by what came of them", ["result"])
_SWITCHED, _REFUSED = (SWITCHES.labels(result) for result in ("switched", "refused"))  # from 0 on

_SELDOM = 300.0  # seconds

log = logs.logger("crossmodal.watcher")


def tell_others() -> None:
    """Have the other workers of this service look too: their parent passes the signal on."""
    parent = multiprocessing.parent_process()
    if shared_folder.folder() is not None and parent is not None and parent.is_alive() and parent.pid is not None:
        os.kill(parent.pid, signal.SIGUSR1)


async def watch_snapshots(engine: Engine, seconds: float, told: asyncio.Event) -> None:
    """Look every so often, unless `seconds` is 0, and when `told`, until cancelled.

    What cannot be served is told once, and read again more and more seldom: it may not have come whole yet.
    """
    refused, pause = "", seconds
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(told.wait(), pause or None)
        told.clear()
        try:
            if await engine.reload():
                _SWITCHED.inc()
                tell_others()
            refused, pause = "", seconds
        except StoreUnavailable:
            continue  # told where it was noticed
        except Exception as error:  # whatever it is, memory that runs out too: the next one may be good
            pause = min(2 * pause, max(seconds, _SELDOM)) if seconds else 0
            if (reason := str(error) or type(error).__name__) != refused:
                refused = reason
                _REFUSED.inc()
                log.error("a new snapshot is refused", reason=refused, keeps_serving=engine.snapshot.name)
