"""Files at http:// and https:// addresses. Every function raises ValueError with the reason."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from dual_encoder.image import MAX_BYTES

if TYPE_CHECKING:
    import httpx

_SECONDS = 20.0  # without a byte
_AT_MOST = 120.0  # seconds for one picture
_PER_HOST = 16  # requests at a time
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_PAUSES = (0.5, 2.0)  # seconds before it is tried again
_LONGEST = 30.0  # seconds that a host may ask for

T = TypeVar("T")


def is_web(url: str) -> bool:
    return url[:8].lower().startswith(("http://", "https://"))


def fetch(url: str, offset: int | None = None, length: int | None = None) -> bytes:
    """The whole of a file of at most MAX_BYTES, or `length` bytes from `offset`, by a ranged request."""
    ranged = offset is not None and length is not None

    def whole() -> bytes:
        content = bytearray()
        until = time.monotonic() + _AT_MOST
        with _get(url, f"bytes={offset}-{(offset or 0) + (length or 0) - 1}" if ranged else None) as answer:
            if ranged and answer.status_code != 206:
                raise ValueError("the host does not answer ranged requests")
            for chunk in answer.iter_bytes():
                content += chunk
                if len(content) > (MAX_BYTES if length is None else length):
                    raise ValueError(f"more than the {MAX_BYTES if length is None else length:,} bytes allowed")
                if time.monotonic() > until:
                    raise ValueError(f"not there after {_AT_MOST:.0f} s")
        return bytes(content)

    return _tried(url, whole)


def copy(url: str, out: IO[bytes]) -> None:
    """Write a file of any size to `out`."""

    def whole() -> None:
        out.seek(0)
        out.truncate()
        with _get(url) as answer:
            for chunk in answer.iter_bytes():
                out.write(chunk)

    _tried(url, whole)


def facts(url: str) -> tuple[int | None, str]:
    """(size in bytes, ETag or date), each if the host tells. Asks for one byte: not every host answers HEAD."""

    def asked() -> tuple[int | None, str]:
        with _get(url, "bytes=0-0", accept=(200, 206, 416)) as answer:
            headers = answer.headers
            told = re.search(r"/(\d+)$", headers.get("content-range", ""))
            size = told.group(1) if told else headers.get("content-length") if answer.status_code == 200 else None
            return (int(size) if size else None), headers.get("etag") or headers.get("last-modified") or ""

    return _tried(url, asked)


def _tried(url: str, work: Callable[[], T]) -> T:
    """Do what asks a host for something, and again where another time may help; not too often at once of one host."""
    with _gate(urlsplit(url).netloc):
        for pause in _PAUSES:
            try:
                return work()
            except _Passing as passing:
                time.sleep(min(max(passing.wait, pause * random.uniform(0.5, 1.5)), _LONGEST))
        return work()


class _Passing(ValueError):
    """What may be otherwise in a moment; `wait` is the seconds that the host asks for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@contextmanager
def _get(url: str, range: str | None = None, accept: tuple[int, ...] = (200, 206)) -> Iterator[httpx.Response]:
    import httpx

    headers = {"Range": range, "Accept-Encoding": "identity"} if range else {}
    try:
        with _client().stream("GET", url, headers=headers) as answer:
            if answer.status_code in _PASSING:
                wait = answer.headers.get("retry-after", "")
                reason = f"the host answered {answer.status_code}, {len(_PAUSES) + 1} times"
                raise _Passing(reason, float(wait) if wait.isdigit() else 0.0)
            if answer.status_code not in accept:
                hint = " (no permission)" if answer.status_code in (401, 403) else ""
                raise ValueError(f"the host answered {answer.status_code}{hint}")
            yield answer
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        passes = isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)
        raise (_Passing if passes else ValueError)(f"could not be fetched ({type(error).__name__})") from None


@cache
def _gate(host: str) -> threading.Semaphore:
    return threading.Semaphore(_PER_HOST)


@cache
def _client() -> Any:
    """One for the process: it keeps connections open, and may be used from any thread."""
    import httpx

    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    return httpx.Client(timeout=_SECONDS, follow_redirects=True, limits=limits)
