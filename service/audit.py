"""Who did what to the service: a line of JSON each, on the logger `crossmodal.audit`."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger("crossmodal.audit")
_LONGEST = 200  # characters of what a client chose

# What uvicorn is told to set up, in every worker: its own lines, and ours as they are.
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(levelname)s: %(message)s"}, "bare": {"format": "%(message)s"}},
    "handlers": {
        "line": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"},
        "bare": {"class": "logging.StreamHandler", "formatter": "bare", "stream": "ext://sys.stderr"},
    },
    "loggers": {
        "uvicorn": {"handlers": ["line"], "level": "INFO", "propagate": False},
        "crossmodal": {"handlers": ["line"], "level": "INFO", "propagate": False},
        "crossmodal.audit": {"handlers": ["bare"], "level": "INFO", "propagate": False},
    },
}


def record(action: str, *, who: str, result: str | int, **facts: object) -> None:
    """Write one line. `who` is a key's prefix and name, a token's subject or a user of this machine; never a secret."""
    line: dict[str, object] = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "audit": action,
        "who": who,
        "result": result,
    }
    line |= {name: value[:_LONGEST] if isinstance(value, str) else value for name, value in facts.items()}
    log.info(json.dumps(line, ensure_ascii=True))
