"""How a serving process ends: by being told to, without losing a request, or by itself once it hangs."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from types import FrameType
from typing import Any

from fastapi import FastAPI

from service import logs
from service.engine import Engine
from service.settings import Settings

log = logs.logger("crossmodal.lifecycle")

WEDGED = 70  # exit code, EX_SOFTWARE


def supervise(app: FastAPI, settings: Settings) -> FastAPI:
    """The app as it runs in a process of its own, whose signals and whose end are the app's.

    Told to stop (SIGTERM), it says at /readyz that it is not ready and serves on for `drain_delay`, while balancers
    learn of it; only then the server stops. If the encoder, the search or the event loop hangs for `exit_timeout`, the
    process ends with code 70, so that whoever watches it starts another.
    """
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with inner(app) as state:
            _drain_first(app, settings.drain_delay)
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, app.state.told_to_look.set)
            watch = _Watch(app.state.engine, settings.exit_timeout)
            beating = asyncio.create_task(watch.beat())
            try:
                yield state
            finally:
                beating.cancel()
                watch.over.set()

    app.router.lifespan_context = lifespan
    return app


def _drain_first(app: FastAPI, delay: float) -> None:
    """Put the delay before the server's own handler of SIGTERM; told a second time, it stops at once."""
    stop = signal.getsignal(signal.SIGTERM)
    loop = asyncio.get_running_loop()
    if not callable(stop):
        return

    def told(number: int, frame: FrameType | None) -> None:
        later = delay if not app.state.draining else 0
        app.state.draining = True
        loop.call_soon_threadsafe(loop.call_later, later, stop, number, None)

    signal.signal(signal.SIGTERM, told)


class _Watch:
    def __init__(self, engine: Engine, most: float) -> None:
        self._engine, self._most = engine, most
        self._alive = time.monotonic()
        self.over = threading.Event()
        threading.Thread(target=self._look, name="watch", daemon=True).start()

    async def beat(self) -> None:
        while True:
            self._alive = time.monotonic()
            self._engine.note_queues()  # another worker may be asked for the metrics
            await asyncio.sleep(min(1.0, self._most / 4))

    def _look(self) -> None:
        parent = multiprocessing.parent_process()  # of several workers
        while not self.over.wait(min(1.0, self._most / 4)):
            if parent is not None and not parent.is_alive():
                log.error("this worker stops", because="the process above it has ended")
                os.kill(os.getpid(), signal.SIGTERM)
                parent = None
            for what, seconds in (
                ("the event loop has been held up", time.monotonic() - self._alive),
                (f"{self._engine.busy_with} has been at one batch", self._engine.busy_for),
            ):
                if seconds > self._most:
                    log.critical("this process ends itself", because=f"{what} for {seconds:.0f} s", exit_code=WEDGED)
                    os._exit(WEDGED)
