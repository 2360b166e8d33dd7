"""Run the application with uvicorn, on uvloop and httptools."""

from __future__ import annotations

import json
import os
from typing import Any

from service import audit
from service.settings import Settings

_UVICORN: dict[str, Any] = {
    "loop": "uvloop",
    "http": "httptools",
    "log_level": "warning",
    "access_log": False,
    "timeout_graceful_shutdown": 30,
}


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until told to stop. Raises what stops it from starting: no index, a broken one, another model's.

    Several workers each open the snapshot; its pages in memory are shared. They start once one engine has been opened
    here, so that a bad index fails with one line, and the model is compiled and cached once.
    """
    import uvicorn

    from service.access import check_exposure
    from service.app import create_app
    from service.engine import Engine

    check_exposure(settings, host)
    proxies = settings.trusted_proxies
    options = {**_UVICORN, "proxy_headers": bool(proxies), "forwarded_allow_ips": proxies, "log_config": audit.LOGGING}
    engine = Engine(settings)
    if settings.workers == 1:
        uvicorn.run(create_app(settings, engine), host=host, port=port, **options)
        return
    engine.close()
    del engine
    for name, value in settings.model_dump(mode="json", exclude_none=True).items():
        os.environ[f"CROSSMODAL_{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)
    uvicorn.run("service.app:create_app", factory=True, host=host, port=port, workers=settings.workers, **options)
