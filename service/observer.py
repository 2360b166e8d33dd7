"""A line of log, and a trace, of every request; neither costs anything where it is not asked for."""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.middleware import PROBES
from service.settings import Settings
from service.timeline import TIMELINE, Timeline, milliseconds
from service.tracing import Tracer

_LONGEST = 2000  # characters of what a client wrote

log = logs.logger("crossmodal.access")


def is_wanted(settings: Settings) -> bool:
    return settings.access_log or settings.traces or settings.log_level == "debug"


class Observer:
    """Pure ASGI, around all else. Probes that are answered well are not told of."""

    def __init__(self, app: ASGIApp, settings: Settings, tracer: Tracer | None) -> None:
        self.app = app
        self._tracer = tracer
        self._lines, self._queries = settings.access_log, settings.log_queries

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["path"] in PROBES and not self._lines):
            await self.app(scope, receive, send)
            return
        timeline = Timeline(scope)
        TIMELINE.set(timeline)
        if self._tracer and scope["path"] not in PROBES:
            timeline.span = self._tracer.begin(scope)
        status, size, body = 499, 0, bytearray()  # 499: the client has left

        async def read() -> Message:
            message = await receive()
            body.extend(message.get("body", b"")[: _LONGEST - len(body)])
            return message

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, read if self._queries else receive, sent)
        except BaseException:
            status = 500
            raise
        finally:
            if timeline.span is not None and self._tracer:
                self._tracer.end(timeline, status)
            if self._lines and (scope["path"] not in PROBES or status >= 400):
                self._write(timeline, status, size, bytes(body))

    def _write(self, timeline: Timeline, status: int, size: int, body: bytes) -> None:
        scope = timeline.scope
        line: dict[str, Any] = {
            "request_id": timeline.request_id,
            "method": scope["method"],
            "path": scope["path"][:_LONGEST],
            "route": getattr(scope.get("route"), "path_format", "other"),
            "status": status,
            "bytes": size,
            "ms": milliseconds(time.monotonic() - timeline.began),
            "address": (scope.get("client") or ("",))[0],
        }
        if who := scope.get("caller"):
            line["who"] = who
        if timeline.span is not None:
            line["trace_id"] = f"{timeline.span.get_span_context().trace_id:032x}"
        if stages := timeline.batches:
            line["stages"] = [
                {
                    "stage": batch.stage,
                    "batch": batch.number,
                    "items": len(marks),
                    "requests": len({id(mark.timeline) for mark in batch.marks}),
                    "queued_ms": milliseconds(batch.began - min(mark.queued for mark in marks)),
                    "ms": milliseconds(batch.ended - batch.began),
                }
                for batch, marks in stages.items()
            ]
        if self._queries:
            line["query"] = scope["query_string"][:_LONGEST].decode("latin-1")
            if dict(scope["headers"]).get(b"content-type", b"").startswith(b"application/json"):
                line["body"] = body.decode("utf-8", "replace")
        log.info("request", **line)
