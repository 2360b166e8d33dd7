"""What happens to every request: an id, a bound on its body, a line in the metrics."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import MutableMapping
from typing import Any

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import refusals
from service.errors import ClientGone
from service.problems import problem_response

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")

REQUESTS = Counter("crossmodal_requests_total", "Requests answered", ["method", "route", "status"])
SECONDS = Histogram("crossmodal_request_seconds", "Seconds from the request's head to the answer's end", ["route"])


class RequestGuard:
    """Pure ASGI, so that bodies stream through. A body over `max_body_bytes` gets 413, declared or not."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app = app
        self.most = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope["request_id"] = request_id
        began, status, received, answered = time.perf_counter(), 500, 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.most:
                raise _TooLarge
            return message

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            declared = headers.get(b"content-length", b"0")
            if declared.isdigit() and int(declared) > self.most:
                raise _TooLarge
            await self.app(scope, counted, watched)
        except _TooLarge:
            refusals.count("body_size")
            if not answered:
                detail = f"the request has more than the {self.most:,} bytes allowed"
                await problem_response(413, detail, request_id, {"Connection": "close"})(scope, receive, watched)
        except ClientGone:
            status = 499  # as nginx has it
        finally:
            route = getattr(scope.get("route"), "path", "other")
            REQUESTS.labels(scope["method"] if route != "other" else "-", route, status).inc()
            SECONDS.labels(route).observe(time.perf_counter() - began)


class _TooLarge(Exception):
    pass
