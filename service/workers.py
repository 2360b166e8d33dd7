"""Several processes that serve together: each gets its part of the connections, and is replaced when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

from fastapi import FastAPI
from uvicorn import Config, Server
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from service import logs
from service.settings import Settings
from service.shared_folder import forget

ACCEPTED = 64  # connections a round of the event loop
_LOOK = 0.05  # seconds between looks for connections that another worker does not take
_PAUSE = 5.0  # seconds between attempts to replace a worker by one that cannot start
_SILENCE = 60.0  # seconds that a worker that starts may not answer: its imports, where others have the cores

log = logs.logger("crossmodal.lifecycle")


def try_to_open(settings: Settings) -> None:
    """Make the application and open the engine once, in a process that ends with it: its memory is not kept.

    So a bad index, model or setting ends the start with one line, the model is compiled and cached once, and what has
    been read through here is not read again by the workers. Raises what was wrong.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_open, args=(settings, sender), daemon=True)
    process.start()
    sender.close()
    try:
        error: Exception | None = receiver.recv()
    except EOFError:
        process.join()
        error = ChildProcessError(f"the model and the index could not be opened: exit code {process.exitcode}")
    process.join()
    if error is not None:
        raise error


def _open(settings: Settings, sender: Connection) -> None:
    from service.app import create_app
    from service.engine import Engine

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent has it too
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        create_app(settings)
        Engine(settings.model_copy(update={"decoder_processes": 0})).close()
    except Exception as error:
        error.add_note(traceback.format_exc())
        sender.send(error)
    else:
        sender.send(None)


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


class Supervisor(Multiprocess):
    """uvicorn's own: it replaces a worker that has ended, and all of them, one after the other, on SIGHUP.

    `listeners` are bound to one port, one for each worker. `failed` says whether it has ended because none could start.
    """

    failed = False
    processes: list[_Worker]  # type: ignore[assignment]

    def __init__(self, config: Config, listeners: list[socket.socket]) -> None:
        super().__init__(config, listeners)
        self._again = 0.0  # when one that could not start is tried again

    def init_processes(self) -> None:
        self.processes = [self._start(place) for place in range(self.processes_num)]

    def keep_subprocess_alive(self) -> None:
        # uvicorn ends with the first that cannot start, though others serve: the live snapshot may have been
        # damaged since, or a store be down for a while.
        for place, worker in enumerate(self.processes):
            if self._told_to_stop:
                return
            if worker.is_well(self.config.timeout_worker_healthcheck):
                continue
            if not worker.ended:
                self._end(worker)
                log.warning("a worker has ended", pid=worker.pid, exit_code=worker.exitcode, had_served=worker.served)
            if not worker.served:
                if all(other.ended or not other.process.is_alive() for other in self.processes):
                    log.critical("no worker can start", exit_code=1)
                    self.failed = True
                    self.should_exit.set()
                    return
                if time.monotonic() < self._again:
                    continue
                self._again = time.monotonic() + _PAUSE
            self.processes[place] = self._start(place)

    def restart_all(self) -> None:
        for place, old in enumerate(self.processes):
            fresh = self._start(place)
            while not fresh.served and fresh.is_well(1) and not self._told_to_stop:
                time.sleep(0.1)
            if not fresh.served:
                self._end(fresh)
                if not self._told_to_stop:
                    log.error(
                        "workers are not restarted: a new one cannot start", pid=fresh.pid, exit_code=fresh.exitcode
                    )
                return
            self.processes[place] = fresh
            old.terminate()
            while old.process.is_alive():
                if self._told_to_stop:
                    return
                old.process.join(0.1)
            forget(old.pid)

    def handle_usr1(self) -> None:
        """A worker was told to reload: all are. One that starts opens what is live by itself."""
        for worker in self.processes:
            if worker.served and worker.process.is_alive() and worker.pid:
                os.kill(worker.pid, signal.SIGUSR1)

    def join_all(self) -> None:
        for listener in self.sockets:  # when the workers have closed theirs too, who connects is refused
            listener.close()
        for worker in self.processes:
            while worker.process.is_alive():
                if _STOP & set(self.signal_queue):  # a second time
                    self.signal_queue.clear()
                    self.terminate_all()
                worker.process.join(0.1)

    @property
    def _told_to_stop(self) -> bool:
        return self.should_exit.is_set() or bool(_STOP & set(self.signal_queue))

    def _start(self, place: int) -> _Worker:
        worker = _Worker(self.config, self.sockets, place % len(self.sockets))
        worker.start()
        return worker

    def _end(self, worker: _Worker) -> None:
        worker.kill()
        worker.join()
        worker.ended = True
        forget(worker.pid)


_STOP = {signal.SIGTERM, signal.SIGINT}


class _Worker(Process):
    """`served` from its first connection on that it could have taken; `ended` once that has been told."""

    def __init__(self, config: Config, listeners: list[socket.socket], place: int) -> None:
        super().__init__(config, listeners)
        self.place, self.served, self.ended = place, False, False
        self._heard = time.monotonic()

    def is_well(self, patience: float) -> bool:
        """Whether it runs, and answers a ping in time; where it has never served, it has longer."""
        if not self.process.is_alive():
            return False
        if self.served:
            return self.ping(patience)
        while self.parent_conn.poll():  # what it answered too late
            self.served = self.parent_conn.recv()
            self._heard = time.monotonic()
        if (answer := self._healthcheck(0.1)) is not None:
            self.served, self._heard = answer, time.monotonic()
        return time.monotonic() - self._heard < _SILENCE

    @property
    def server(self) -> Server:
        if self._server is None:
            self._server = _Server(self.config, self.place)
        return self._server


class _Server(Server):
    """Takes the connections that the system deals to its own listener, and those that another worker leaves.

    One listener for all would be simpler, but whoever woke first took 64 connections a round of its event loop, and
    where clients keep them, all the work. Of the listeners of one port (SO_REUSEPORT) the system picks one for each
    connection, whether its worker is alive or not: so the others look after it too.
    """

    def __init__(self, config: Config, place: int) -> None:
        super().__init__(config)
        self._place = place
        self._helper: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets is not None
        await super().startup(repeated(sockets[self._place]))
        others = [listener for place, listener in enumerate(sockets) if place != self._place]
        self._helper = asyncio.create_task(self._help(others))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._helper is not None:
            self._helper.cancel()
        await super().shutdown(sockets)

    async def _help(self, others: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        protocol: Any = self.config.http_protocol_class

        def made() -> asyncio.Protocol:
            options = {"server_state": self.server_state, "app_state": self.lifespan.state}
            return protocol(config=self.config, **options)  # type: ignore[no-any-return]

        waiting = select.poll()
        for listener in others:
            listener.setblocking(False)
            waiting.register(listener, select.POLLIN)
        before: set[int] = set()
        while True:
            await asyncio.sleep(_LOOK)
            now = {number for number, _ in waiting.poll(0)}
            for listener in others:
                if listener.fileno() in now & before:  # not those that have only just come
                    with contextlib.suppress(OSError):  # nobody is left to wait there
                        for _ in range(ACCEPTED):
                            connection = listener.accept()[0]
                            connection.setblocking(False)
                            await loop.connect_accepted_socket(made, connection)
            before = now


def repeated(listener: socket.socket) -> list[socket.socket]:
    """The same listener several times over.

    uvloop accepts one connection a round of the loop from each. Under a flood, when a round is long, new connections,
    health checks among them, waited 9 s for their turn.
    """
    listener.setblocking(False)  # or its copies would block, and with them every process that has it
    return [listener, *(listener.dup() for _ in range(ACCEPTED - 1))]


def worker() -> FastAPI:
    """The application in one of several processes; their settings are in the environment."""
    from service.app import create_app
    from service.connections import TimedProtocol
    from service.lifecycle import supervise

    logs.catch_all()
    settings = Settings()
    try:
        app = create_app(settings)
    except ValueError as error:  # the file of keys has been taken away since
        log.error("this worker cannot start", reason=str(error))
        sys.exit(STARTUP_FAILURE)
    TimedProtocol.limit(settings, app.state.load)
    return supervise(app, settings)
