"""How long a connection may keep the service waiting, and how many there may be."""

from __future__ import annotations

import asyncio
import logging
import resource
import select
import sys
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.errors import WHEN_GONE
from service.headers import ON_FAILURE
from service.loop_lag import LoopLoad
from service.middleware import PROBES, REQUESTS, new_request_id
from service.problems import MEDIA_TYPE, problem_body
from service.refusals import Reason, count
from service.settings import Settings

_FILES = 256  # that the process needs besides its connections
_LINGER = 0.5  # seconds
_LARGEST_HEAD = 64 * 2**10  # bytes; neither the parser nor uvicorn knows a bound
_PROBES = frozenset(map(str.encode, PROBES))
_PIPELINE = 32  # requests that a connection may send before the first is answered


class _Answers:
    """A connection's transport as its answers see it: a head is sent with what follows it.

    uvicorn writes them one after the other, uvloop at once: two calls of the system, and the client wakes twice.
    """

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def write(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n") and not data.startswith(b"HTTP/1.1 100"):
            self.flush()
            self._head = data
        else:
            head, self._head = self._head, b""
            self._transport.write(b"".join((head, data)))

    def flush(self) -> None:
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class _Pieces:
    """What has come of a body. uvicorn's bytearray is copied as it grows, and once more as it is taken."""

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def __iadd__(self, piece: bytes) -> _Pieces:
        self._pieces.append(piece)
        self._size += len(piece)
        return self

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


class TimedProtocol(HttpToolsProtocol):
    """uvicorn's own, with what it leaves open.

    A connection is closed if no whole head has come within `seconds` of its opening or of the answer before, if its
    client takes nothing of an answer for as long, and, the idle longest first, where there are more than `most`. So is
    one with an endless head, or with more requests than a few that wait for their turn.

    What the event loop has no time for is refused here, once its head has come: an application would need as long to
    refuse it as to answer it, where the model is small.
    """

    seconds: ClassVar[float] = 10.0
    most: ClassVar[int] = 4096
    load: ClassVar[LoopLoad] = LoopLoad()
    _idle: ClassVar[dict[TimedProtocol, float]] = {}  # those without a request, since when, the oldest first
    _sweep: ClassVar[asyncio.TimerHandle | None] = None

    @classmethod
    def limit(cls, settings: Settings, load: LoopLoad) -> None:
        """For every connection of this process, whose application keeps count of its `load`."""
        cls.load = load
        cls.seconds = settings.body_timeout
        logging.getLogger("uvicorn.error").addFilter(lambda record: "Invalid HTTP request" not in str(record.msg))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        cls.most = min(settings.max_connections, hard - _FILES)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._stuck: asyncio.TimerHandle | None = None
        self._data = b""  # that the parser is at
        self._unused = 0  # bytes of a head, or of what trails a body, that is not whole yet
        self._answered: RequestResponseCycle | None = None  # now, or last
        self._answers: Any = None
        self._over = False  # whether nothing more is read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._answers = _Answers(transport)
        if self.client and self.client[0].startswith("::ffff:") and "." in self.client[0]:
            # IPv4 at an IPv6 socket: as one /64 network all of it would share a rate limit, and no proxy be trusted.
            self.client = self.client[0].removeprefix("::ffff:"), self.client[1]
        self._wait_for_head()
        if len(self.connections) > self.most:
            next(iter(self._idle))._give_up("connections")  # this one itself, if all others are being answered

    def connection_lost(self, exc: Exception | None) -> None:
        self._idle.pop(self, None)
        if self._stuck:
            self._stuck.cancel()
        if self._answered is not None and not self._answered.response_complete:  # uvicorn tells the last that came
            self._answered.disconnected = True
            self._answered.message_event.set()
            for leave in self._answered.scope.pop(WHEN_GONE, ()):  # type: ignore[misc]
                leave()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        cycle.transport = self._answers
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self._data = data
        self._unused += len(data)
        super().data_received(data)
        if self._unused > _LARGEST_HEAD and not self._over and not self.transport.is_closing():
            detail = f"the request's head has more than the {_LARGEST_HEAD:,} bytes allowed"
            self._end("too_large", "431 Request Header Fields Too Large", detail)

    def _should_upgrade(self) -> bool:
        return True

    def handle_websocket_upgrade(self) -> None:
        """Nothing is upgraded here, but the parser would leave the request's body out: again, without that header."""
        if self.transport.is_closing():
            return
        rest = self._data[sys.exception().args[0] :]  # type: ignore[union-attr]
        head = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        head += [b"%b: %b" % each for each in self.headers if each[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)  # that one has seen a last request, where it said so
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(b"\r\n".join([*head, b"", rest]))

    def on_headers_complete(self) -> None:
        self._unused = 0
        if self.transport.is_closing():
            return
        if len(self.pipeline) >= _PIPELINE or self.parser.get_method() == b"CONNECT":
            raise ValueError  # to the parser, and so 400
        free = self.cycle is None or self.cycle.response_complete
        if free and self.load.full and self.url not in _PROBES:
            self._shed()
            return
        if self.parser.should_upgrade():
            return
        if self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False  # it would take that for the answer
        self._idle.pop(self, None)
        super().on_headers_complete()
        self.headers = []  # what trails a body is none of the request's, which has the list: a key, whom it came from

    def on_body(self, body: bytes) -> None:
        self._unused = 0
        if self.cycle is not None:  # else the connection's first request was refused: what comes with it is let go
            if not self.cycle.body:
                self.cycle.body = _Pieces()  # type: ignore[assignment]
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.cycle is not None:
            self.cycle.scope.setdefault(WHEN_GONE, [])  # type: ignore[misc]  # again where the next is an upgrade
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self._answers.flush()
        super().on_response_complete()
        if self.cycle.response_complete:  # else another is in the pipeline
            self._wait_for_head()

    def send_400_response(self, msg: str) -> None:
        """A problem as all others, and no line in the log for whoever sends nonsense."""
        self._end("invalid_http", "400 Bad Request", msg)

    def _end(self, reason: Reason, status: str, detail: str) -> None:
        """Refuse what comes, and hang up: without a word where what came before it is not answered yet, once it is."""
        count(reason)
        self._over = True
        if self.pipeline and self.cycle.more_body:
            self.pipeline.popleft()  # it is what is refused
        last = self.pipeline[0][0] if self.pipeline else self._answered
        if last is None or last.response_complete or (last.more_body and not last.response_started):
            self._refuse(status, detail, new_request_id(), {"Connection": "close"})
            self.transport.close()
        else:
            last.keep_alive = False

    def _shed(self) -> None:
        if self.flow.write_paused:  # whoever reads no answer is not told again
            self._give_up("slow_reader")
            return
        count("loop")
        REQUESTS.labels("-", "other", 503).inc()
        keep = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        keep = keep and not self.parser.should_upgrade()  # the body of one that would be is not told from what follows
        more = {"Retry-After": "5", **({} if keep else {"Connection": "close"})}
        detail = "the service is too busy: try again later"
        request_id = new_request_id(dict(self.headers).get(b"x-request-id", b""))
        self._refuse("503 Service Unavailable", detail, request_id, more)
        if keep:
            self._wait_for_head()
        else:
            self.transport.close()

    def _refuse(self, status: str, detail: str, request_id: str, more: dict[str, str]) -> None:
        body = problem_body(int(status[:3]), detail, request_id)
        own = {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(body)), "X-Request-ID": request_id}
        headers = {**own, **ON_FAILURE, **more}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        if self.parser.get_method() == b"HEAD":
            body = b""
        self.transport.write(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body)

    def shutdown(self) -> None:
        """The process has been told to stop: a connection without a request gets a moment, for one may be on its way.

        It is answered, and said to be the last.
        """
        if self in self._idle:
            self.loop.call_later(_LINGER, self._hang_up)
        else:
            super().shutdown()

    def _hang_up(self) -> None:
        if self in self._idle and _is_readable(self.transport):
            self.loop.call_later(_LINGER, self._hang_up)
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(self.seconds, self._give_up, "slow_reader")

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck:
            self._stuck.cancel()

    def _wait_for_head(self) -> None:
        self._idle.pop(self, None)
        self._idle[self] = self.loop.time()
        if TimedProtocol._sweep is None:
            TimedProtocol._sweep = self.loop.call_later(self.seconds, _close_the_slow, self.loop)

    def _give_up(self, reason: Reason) -> None:
        count(reason)
        self._idle.pop(self, None)
        self.transport.abort()


def _is_readable(transport: asyncio.Transport) -> bool:
    """Whether something has come that the loop has not read yet."""
    poll = select.poll()
    try:
        poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))
    except (OSError, ValueError, AttributeError):  # it has been closed
        return False


def _close_the_slow(loop: asyncio.AbstractEventLoop) -> None:
    """One timer for all connections: a timer for each costs more than it saves where nearly none is slow."""
    while TimedProtocol._idle:
        oldest, since = next(iter(TimedProtocol._idle.items()))
        if (left := since + oldest.seconds - loop.time()) > 0:
            TimedProtocol._sweep = loop.call_later(left, _close_the_slow, loop)
            return
        oldest._give_up("slow_head")
    TimedProtocol._sweep = None
