"""What happens to every request: an id, bounds on its body and time, its answer's headers, a line in the metrics."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import random
import re
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.admission import ALLOWANCE, Allowance
from service.errors import ClientGone
from service.headers import security_headers
from service.logs import REQUEST_ID
from service.loop_lag import LoopLoad
from service.problems import problem_response
from service.refusals import Reason, count
from service.settings import Settings

_UNTIMED = "/v1/index/reload"  # the operator's, who waits for it; a body is let lie
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})  # asked for every few seconds, and never turned away
_PIECE = 256 * 2**10  # bytes of an answer that a client must take in `body_timeout`
_SECONDS = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")

REQUESTS = Counter("crossmodal_requests_total", "Requests answered", ["method", "route", "status"])
SECONDS = Histogram("crossmodal_request_seconds", "Seconds from the request's head to the answer's end", ["route"])
_requests, _seconds = functools.cache(REQUESTS.labels), functools.cache(SECONDS.labels)


def new_request_id(given: bytes = b"") -> str:
    """The client's own X-Request-ID, where it is one."""
    return given.decode() if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"


class RequestGuard:
    """Pure ASGI, so that bodies stream through.

    A body over `max_body_bytes` gets 413, declared or not; one that has not come in `body_timeout` 408; what is not
    begun to be answered by its deadline 503. The deadline is `request_timeout` after the head, or sooner where the
    header X-Request-Timeout says so, in seconds. Large answers that wait to be taken are bounded as bodies are.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, load: LoopLoad, cors: Callable[[ASGIApp], ASGIApp] | None = None
    ) -> None:
        """`cors` goes around the application, and around what is refused here: other sites may read that too."""
        self.cors = cors or (lambda app: app)
        self.app = self.cors(app)
        self.with_policy, self.without = security_headers(shared=cors is not None)
        self.load = load
        self.settings = settings
        self.most = settings.max_body_bytes
        self.held = 0  # bytes of all bodies
        self.answering = 0  # bytes of all large answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = new_request_id(headers.get(b"x-request-id", b""))
        scope["request_id"] = request_id
        REQUEST_ID.set(request_id)
        began, status, received, sending, answered = time.monotonic(), 500, 0, 0, False
        untimed, counts = scope["path"] == _UNTIMED, scope["path"] not in PROBES
        arriving = not untimed and (b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0")

        async def counted() -> Message:
            nonlocal received, arriving
            message = await receive()
            if arriving and message["type"] == "http.disconnect":
                raise ClientGone  # in the middle of its body: no fault of ours, and nobody to answer
            size = len(message.get("body", b""))
            received += size
            self.held += size
            if received > self.most:
                raise _Refused(413, "too_large", f"the request has more than the {self.most:,} bytes allowed")
            if self.held > self.settings.bytes_in_flight and size:
                raise _Refused(503, "memory", "the service holds too many large requests: try again later")
            if arriving and not message.get("more_body"):
                arriving = False
            return message

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status, sending, answered, counts
            if message["type"] == "http.response.start":
                told = dict(message["headers"])
                if (length := int(told.get(b"content-length", 0))) > _PIECE:
                    if self.answering and self.answering + length > self.settings.bytes_in_flight:
                        raise _Refused(503, "memory", "the service holds too many large answers: try later")
                    sending = length
                    self.answering += sending
                    self.load.requests -= counts  # how fast it is taken is no work of the loop's
                    counts = False
                status, answered = message["status"], True
                if timer:
                    timer.cancel()  # how fast it is taken is the connection's to watch
                security = self.with_policy if b"content-security-policy" in told else self.without
                message["headers"] = [*message["headers"], *security, (b"x-request-id", request_id.encode())]
                if scope["app"].state.draining:
                    message["headers"].append((b"connection", b"close"))
            try:
                if sending and message["type"] == "http.response.body":
                    await _in_pieces(message, send)
                else:
                    await send(message)
            except RuntimeError as error:  # uvloop's, of a connection that was closed a moment ago
                raise (ClientGone if "closed" in str(error) else error) from None

        # One timer for both bounds, most often cancelled unused: `limit` is set to now once either has passed.
        limit, loop = asyncio.timeout(None), asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None
        deadline = body_by = math.inf

        def look() -> None:
            nonlocal timer
            now, due = loop.time(), body_by if arriving else deadline
            if now >= due:
                limit.reschedule(now)
            elif due < math.inf:
                timer = loop.call_at(due, look)  # noqa: F821 (deleted at the end)

        refusal: _Refused | None = None
        self.load.requests += counts
        try:
            if counts and self.load.full:  # what the connection lets through: other spellings of the path, pipelines
                raise _Refused(503, "loop", "the service is too busy: try again later")
            self.load.begun += counts
            seconds = math.inf if untimed else self._seconds(headers.get(b"x-request-timeout"))
            ALLOWANCE.set(Allowance(began + seconds))
            deadline = loop.time() + seconds
            body_by = min(deadline, loop.time() + self.settings.body_timeout)
            async with limit:
                look()
                if arriving:
                    declared = headers.get(b"content-length", b"0")
                    if declared.isdigit() and int(declared) > self.most:
                        raise _Refused(413, "too_large", f"the request has more than the {self.most:,} bytes allowed")
                await self.app(scope, counted, watched)
        except _Refused as error:
            refusal = error.with_traceback(None)  # else it would hold this frame, which holds it
        except TimeoutError:
            if not limit.expired():
                raise
            if arriving and body_by < deadline:
                refusal = _Refused(408, "slow_body", f"the body did not come in {self.settings.body_timeout:g} s")
            else:
                refusal = _Refused(503, "deadline", f"no answer within {seconds:g} s: try again later")
        except ClientGone:
            status = 499  # as nginx has it
            await asyncio.sleep(0)  # until the connection has been told, which otherwise complains of half an answer
        finally:
            if timer:
                timer.cancel()
                timer = None
            del look  # it holds itself, and with it the request: the garbage collector would stop the loop for it
            self.held -= received
            self.answering -= sending
            self.load.requests -= counts
            if refusal is not None:
                count(refusal.reason)
                if not answered:
                    extra = {"Retry-After": "5"} if refusal.status == 503 else {}
                    if arriving and refusal.status != 503:  # else the rest is read and thrown away
                        extra["Connection"] = "close"
                    answer = problem_response(refusal.status, refusal.detail, request_id, extra)
                    with contextlib.suppress(ClientGone):
                        await self.cors(answer)(scope, receive, watched)
            route = getattr(scope.get("route"), "path_format", "other")
            _requests(scope["method"] if route != "other" else "-", route, status).inc()
            _seconds(route).observe(time.monotonic() - began)

    def _seconds(self, given: bytes | None) -> float:
        most = self.settings.request_timeout
        if given is None:
            return most
        if not _SECONDS.fullmatch(given) or not float(given):
            raise _Refused(422, "invalid", "X-Request-Timeout must be a number of seconds, more than 0")
        return min(most, float(given))


async def _in_pieces(message: MutableMapping[str, Any], send: Send) -> None:
    """Each is sent once the one before has been taken, so that the request lasts until all but the last has been."""
    body, more = memoryview(message.get("body", b"")), message.get("more_body", False)
    for end in range(_PIECE, max(1, len(body)) + _PIECE, _PIECE):
        piece = bytes(body[end - _PIECE : end])
        await send({"type": message["type"], "body": piece, "more_body": more or end < len(body)})


class _Refused(BaseException):  # the guard's alone to answer
    def __init__(self, status: int, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.status, self.reason, self.detail = status, reason, detail
