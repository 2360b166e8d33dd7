"""What the service writes to stderr: a line of JSON for each event, uvicorn's own among them, or a form for people.

Lines hold no keys, no bodies and no query strings, but where `CROSSMODAL_LOG_QUERIES` asks for the latter two.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from contextvars import ContextVar
from typing import Any, Literal

import orjson
import structlog
from structlog.types import EventDict, WrappedLogger

Form = Literal["auto", "json", "console"]
Level = Literal["debug", "info", "warning", "error"]

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """Events with fields: `logger("crossmodal.x").info("what happened", field=value)`."""
    return structlog.wrap_logger(  # type: ignore[no-any-return]
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def settings(form: Form = "auto", level: Level = "info") -> dict[str, Any]:
    """For logging.config.dictConfig, and uvicorn, which has every worker set them up."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"event": {"()": "service.logs.formatter", "form": form}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "event", "stream": "ext://sys.stderr"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "crossmodal": {"level": level.upper()},
            "crossmodal.access": {"level": "INFO"},  # asked for by a setting of its own
            "crossmodal.audit": {"level": "INFO"},
            "python_multipart": {"level": "ERROR"},  # warns of what clients send
        },
    }


def catch_all() -> None:
    """Warnings and what ends a thread become events too."""
    logging.captureWarnings(True)
    log = logger("crossmodal.thread")

    def ended(args: threading.ExceptHookArgs) -> None:
        error = args.exc_value or args.exc_type()
        log.error("a thread has ended", thread=args.thread.name if args.thread else None, exc_info=error)

    threading.excepthook = ended


def formatter(form: Form = "auto") -> logging.Formatter:
    """JSON, unless `form` says otherwise, or leaves it open and stderr is a terminal."""
    if form == "console" or (form == "auto" and sys.stderr.isatty()):
        plain = structlog.dev.plain_traceback  # others show the values of variables
        colours = sys.stderr.isatty()
        show: list[Any] = [
            structlog.dev.ConsoleRenderer(colors=colours, repr_native_str=True, exception_formatter=plain)
        ]
    else:
        show = [structlog.processors.format_exc_info, _json]
    return structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _request_id,
            structlog.processors.TimeStamper("iso"),
            *show,
        ]
    )


def _request_id(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if (request_id := REQUEST_ID.get()) is not None:
        event.setdefault("request_id", request_id)
    return event


def _json(_: WrappedLogger, __: str, event: EventDict) -> str:
    try:
        return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:  # half of a pair of surrogates, as names of files may have
        return json.dumps(event, default=str)
