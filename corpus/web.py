"""Files at http:// and https:// addresses. Every function raises ValueError with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import IO, TYPE_CHECKING, Any

from dual_encoder.image import MAX_BYTES

if TYPE_CHECKING:
    import httpx

_SECONDS = 20.0  # without a byte


def is_web(url: str) -> bool:
    return url[:8].lower().startswith(("http://", "https://"))


def fetch(url: str, offset: int | None = None, length: int | None = None) -> bytes:
    """The whole of a file of at most MAX_BYTES, or `length` bytes from `offset`, by a ranged request."""
    ranged = offset is not None and length is not None
    content = bytearray()
    with _get(url, f"bytes={offset}-{(offset or 0) + (length or 0) - 1}" if ranged else None) as answer:
        if ranged and answer.status_code != 206:
            raise ValueError("the host does not answer ranged requests")
        for chunk in answer.iter_bytes():
            content += chunk
            if len(content) > (MAX_BYTES if length is None else length):
                raise ValueError(f"more than the {MAX_BYTES if length is None else length:,} bytes allowed")
    return bytes(content)


def copy(url: str, out: IO[bytes]) -> None:
    """Write a file of any size to `out`."""
    with _get(url) as answer:
        for chunk in answer.iter_bytes():
            out.write(chunk)


def facts(url: str) -> tuple[int | None, str]:
    """(size in bytes, ETag or date), each if the host tells. Asks for one byte: not every host answers HEAD."""
    with _get(url, "bytes=0-0", accept=(200, 206, 416)) as answer:
        headers = answer.headers
        told = re.search(r"/(\d+)$", headers.get("content-range", ""))
        size = told.group(1) if told else headers.get("content-length") if answer.status_code == 200 else None
        return (int(size) if size else None), headers.get("etag") or headers.get("last-modified") or ""


@contextmanager
def _get(url: str, range: str | None = None, accept: tuple[int, ...] = (200, 206)) -> Iterator[httpx.Response]:
    import httpx

    headers = {"Range": range, "Accept-Encoding": "identity"} if range else {}
    try:
        with _client().stream("GET", url, headers=headers) as answer:
            if answer.status_code not in accept:
                hint = " (no permission)" if answer.status_code in (401, 403) else ""
                raise ValueError(f"the host answered {answer.status_code}{hint}")
            yield answer
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ValueError(f"could not be fetched ({type(error).__name__})") from None


@cache
def _client() -> Any:
    """One for the process: it keeps connections open, and may be used from any thread."""
    import httpx

    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    return httpx.Client(timeout=_SECONDS, follow_redirects=True, limits=limits)
