"""Run the application with uvicorn, on uvloop and httptools."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from fastapi import FastAPI

from service.settings import Settings

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

    from service.app import create_app
    from service.connections import TimedProtocol
    from service.engine import Engine
    from service.lifecycle import supervise

    _check_port(host, port)
    options = {**_UVICORN, "http": TimedProtocol, "timeout_graceful_shutdown": max(1, round(settings.drain_timeout))}
    engine = Engine(settings)
    if settings.workers == 1:
        TimedProtocol.limit(settings)
        uvicorn.run(supervise(create_app(settings, engine), settings), host=host, port=port, **options)
        return
    engine.close()
    del engine
    for name, value in settings.model_dump(mode="json", exclude_none=True).items():
        os.environ[f"CROSSMODAL_{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)
    uvicorn.run("service.server:worker", factory=True, host=host, port=port, workers=settings.workers, **options)


def worker() -> FastAPI:
    """The application in one of several processes; their settings are in the environment."""
    from service.app import create_app
    from service.connections import TimedProtocol
    from service.lifecycle import supervise

    settings = Settings()
    TimedProtocol.limit(settings)
    return supervise(create_app(settings), settings)


def _check_port(host: str, port: int) -> None:
    """Before the model is loaded, which takes its time. Raises OSError in words."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise OSError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None
