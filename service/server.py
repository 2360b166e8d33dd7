"""Run the application with uvicorn, on uvloop and httptools."""

from __future__ import annotations

import json
import logging.config
import os
import socket
from typing import Any

from fastapi import FastAPI

from service import logs
from service.settings import Settings

_ACCEPTED = 64  # connections a round of the event loop
_START = 120  # seconds that a worker may take until it serves, in a graceful restart
_UVICORN: dict[str, Any] = {
    "loop": "uvloop",
    "log_level": "warning",
    "access_log": False,
    "ws": "none",
}


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until told to stop. Raises what stops it from starting: the port, no index, a broken one, another model's.

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
    check_exposure(settings, host)
    listeners = _listen(host, port)  # before the model is loaded, which takes its time
    proxies = settings.trusted_proxies
    options = {
        **_UVICORN,
        "http": TimedProtocol,
        "timeout_graceful_shutdown": max(1, round(settings.drain_timeout)),
        "proxy_headers": bool(proxies),
        "forwarded_allow_ips": proxies,
        "log_config": log_config,
    }
    engine = Engine(settings)
    if settings.workers == 1:
        app = supervise(create_app(settings, engine), settings)
        TimedProtocol.limit(settings, app.state.load)
        uvicorn.Server(uvicorn.Config(app, **options)).run(listeners)
        return
    os.environ[READ_THROUGH] = engine.snapshot.name
    engine.close()
    del engine
    for name, value in settings.model_dump(mode="json").items():
        os.environ.pop(f"CROSSMODAL_{name.upper()}", None)
        if value is not None:
            os.environ[f"CROSSMODAL_{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)
    config = uvicorn.Config("service.server:worker", factory=True, workers=settings.workers, **options)
    _supervisor(config, listeners).run()


def _supervisor(config: Any, listeners: list[socket.socket]) -> Any:
    """uvicorn's own: it replaces a worker that has ended, and all of them, one after the other, on SIGHUP."""
    from uvicorn.supervisors import Multiprocess

    class Supervisor(Multiprocess):
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
    from service.app import create_app
    from service.connections import TimedProtocol
    from service.lifecycle import supervise

    settings = Settings()
    app = supervise(create_app(settings), settings)
    TimedProtocol.limit(settings, app.state.load)
    return app


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
