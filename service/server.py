"""Run the application with uvicorn, on uvloop and httptools."""

from __future__ import annotations

import json
import logging.config
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from service import logs, shared_folder
from service.settings import Settings

_UVICORN: dict[str, Any] = {
    "loop": "uvloop",
    "log_level": "warning",
    "access_log": False,
    "ws": "none",
    "http": "service.connections:TimedProtocol",
}


def serve(settings: Settings, host: str, port: int, opened: Callable[[], None] = lambda: None) -> None:
    """Serve until told to stop. Raises what stops it from starting: the port, no index, a broken one, another model's.

    `opened` is called once model and index have been opened: who connects is answered, by the first worker that is up.

    Several workers each open the snapshot; its pages in memory are shared. They start once an engine has been opened
    and closed again, so that a bad index fails with one line, and the model is compiled and cached once.
    """
    import uvicorn

    from service.access import check_exposure

    log_config = logs.settings(settings.log_format, settings.log_level)
    logging.config.dictConfig(log_config)
    logs.catch_all()
    check_exposure(settings, host)
    proxies = list(map(str, settings.trusted_proxies))
    options = {
        **_UVICORN,
        "timeout_graceful_shutdown": max(1, round(settings.drain_timeout)),
        "proxy_headers": bool(proxies),
        "forwarded_allow_ips": proxies,
        "log_config": log_config,
    }
    if settings.workers > 1:
        with shared_folder.made():
            _serve_with_workers(settings, _listen(host, port, settings.workers), options, opened)
        return

    from service.app import create_app
    from service.connections import TimedProtocol
    from service.engine import Engine
    from service.lifecycle import supervise
    from service.workers import repeated

    app = create_app(settings)
    [listener] = _listen(host, port)  # before the model is loaded, which takes its time
    app.state.engine = Engine(settings)
    opened()
    TimedProtocol.limit(settings, app.state.load)
    uvicorn.Server(uvicorn.Config(supervise(app, settings), **options)).run(repeated(listener))


def _serve_with_workers(
    settings: Settings, listeners: list[socket.socket], options: dict[str, Any], opened: Callable[[], None]
) -> None:
    import uvicorn

    from service.workers import Supervisor, try_to_open

    try_to_open(settings)
    opened()
    for name, value in settings.model_dump(mode="json").items():
        os.environ.pop(f"CROSSMODAL_{name.upper()}", None)
        if value is not None:
            os.environ[f"CROSSMODAL_{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)
    config = uvicorn.Config("service.workers:worker", factory=True, workers=settings.workers, **options)
    supervisor = Supervisor(config, listeners)
    supervisor.run()
    if supervisor.failed:
        sys.exit(1)


def _listen(host: str, port: int, workers: int = 1) -> list[socket.socket]:
    """A listener for each worker, all on one port. Raises OSError in words."""
    first = _bound(host, port)
    if workers == 1:
        return [first]
    port = first.getsockname()[1]
    first.close()  # which was to find out that nobody has the port: those that share it would not
    return [_bound(host, port, shared=True) for _ in range(workers)]


def _bound(host: str, port: int, shared: bool = False) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise OSError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None
    return listener
