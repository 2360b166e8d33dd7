"""Run the application with uvicorn, on uvloop and httptools."""

from __future__ import annotations

import json
import logging.config
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from service import logs
from service.settings import Settings

_ACCEPTED = 64  # connections a round of the event loop
_PAUSE = 5.0  # seconds between attempts to replace a worker by one that cannot start
_START = 120  # seconds that a worker may take until it serves, in a graceful restart
_UVICORN: dict[str, Any] = {
    "loop": "uvloop",
    "log_level": "warning",
    "access_log": False,
    "ws": "none",
}


def serve(settings: Settings, host: str, port: int, opened: Callable[[], None] = lambda: None) -> None:
    """Serve until told to stop. Raises what stops it from starting: the port, no index, a broken one, another model's.

    `opened` is called once model and index have been opened: who connects is answered, by the first worker that is up.

    Several workers each open the snapshot; its pages in memory are shared. They start once one engine has been opened
    here, so that a bad index fails with one line, and the model is compiled and cached once.
    """
    import uvicorn

    from service.access import check_exposure
    from service.app import create_app
    from service.connections import TimedProtocol
    from service.engine import READ_THROUGH, Engine
    from service.lifecycle import supervise

    log_config = logs.settings(settings.log_format, settings.log_level)
    logging.config.dictConfig(log_config)
    logs.catch_all()
    check_exposure(settings, host)
    app = create_app(settings)
    listeners = _listen(host, port)  # before the model is loaded, which takes its time
    proxies = list(map(str, settings.trusted_proxies))
    options = {
        **_UVICORN,
        "http": TimedProtocol,
        "timeout_graceful_shutdown": max(1, round(settings.drain_timeout)),
        "proxy_headers": bool(proxies),
        "forwarded_allow_ips": proxies,
        "log_config": log_config,
    }
    engine = Engine(settings)
    opened()
    if settings.workers == 1:
        app.state.engine = engine
        TimedProtocol.limit(settings, app.state.load)
        uvicorn.Server(uvicorn.Config(supervise(app, settings), **options)).run(listeners)
        return
    os.environ[READ_THROUGH] = engine.snapshot.name
    engine.close()
    del app, engine
    for name, value in settings.model_dump(mode="json").items():
        os.environ.pop(f"CROSSMODAL_{name.upper()}", None)
        if value is not None:
            os.environ[f"CROSSMODAL_{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)
    config = uvicorn.Config("service.server:worker", factory=True, workers=settings.workers, **options)
    supervisor = _supervisor(config, listeners)
    supervisor.run()
    if supervisor.failed:
        sys.exit(1)


def _supervisor(config: Any, listeners: list[socket.socket]) -> Any:
    """uvicorn's own: it replaces a worker that has ended, and all of them, one after the other, on SIGHUP.

    `failed` says whether it has ended because none could start.
    """
    from uvicorn.config import STARTUP_FAILURE
    from uvicorn.supervisors import Multiprocess
    from uvicorn.supervisors.multiprocess import Process

    from service.engine import READ_THROUGH

    class Supervisor(Multiprocess):
        failed = False
        again = 0.0  # when one that could not start is tried again

        def init_processes(self) -> None:
            super().init_processes()
            del os.environ[READ_THROUGH]  # much later ones look for themselves

        def keep_subprocess_alive(self) -> None:
            # uvicorn ends with the first that cannot start, though others serve: the live snapshot may have been
            # damaged since, or a store be down for a while.
            patience = config.timeout_worker_healthcheck
            for place, process in enumerate(self.processes):
                if self.should_exit.is_set():
                    return
                if process.is_alive(timeout=patience):
                    continue
                process.kill()
                process.join()
                if process.exitcode == STARTUP_FAILURE:
                    if not any(other.is_alive(timeout=patience) for other in self.processes if other is not process):
                        self.failed = True
                        self.should_exit.set()
                        return
                    if time.monotonic() < self.again:
                        continue
                    self.again = time.monotonic() + _PAUSE
                self.processes[place] = Process(config, self.sockets)
                self.processes[place].start()

        def restart_all(self) -> None:
            # uvicorn waits as long for a new worker as for the answer to a ping, and while it pings one, sees no other.
            ping, config.timeout_worker_healthcheck = config.timeout_worker_healthcheck, _START
            try:
                super().restart_all()
            finally:
                config.timeout_worker_healthcheck = ping

    return Supervisor(config, listeners)


def worker() -> FastAPI:
    """The application in one of several processes; their settings are in the environment."""
    from uvicorn.config import STARTUP_FAILURE

    from service.app import create_app
    from service.connections import TimedProtocol
    from service.lifecycle import supervise

    logs.catch_all()
    settings = Settings()
    try:
        app = create_app(settings)
    except ValueError as error:  # the file of keys has been taken away since
        logs.logger("crossmodal.lifecycle").error("this worker cannot start", reason=str(error))
        sys.exit(STARTUP_FAILURE)
    TimedProtocol.limit(settings, app.state.load)
    return supervise(app, settings)


def _listen(host: str, port: int) -> list[socket.socket]:
    """The listening socket, several times over. Raises OSError in words."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise OSError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None
    # uvloop accepts one connection a round of the loop from each. Under a flood, when a round is long, new connections,
    # health checks among them, waited 9 s for their turn.
    return [listener, *(listener.dup() for _ in range(_ACCEPTED - 1))]
