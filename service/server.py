"""Run the application with uvicorn."""

from __future__ import annotations

import json
import os

from service.settings import Settings


def serve(settings: Settings, host: str, port: int, workers: int = 1) -> None:
    """Serve until told to stop. Several workers each open the snapshot; its pages in memory are shared."""
    import uvicorn

    if workers == 1:
        from service.app import create_app

        uvicorn.run(create_app(settings), host=host, port=port, log_level="warning", timeout_graceful_shutdown=30)
        return
    for name, value in settings.model_dump(mode="json", exclude_none=True).items():
        os.environ[f"CROSSMODAL_{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)
    uvicorn.run(
        "service.app:create_app", factory=True, host=host, port=port, workers=workers, log_level="warning",
        timeout_graceful_shutdown=30,
    )  # fmt: skip
