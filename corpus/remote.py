"""Files that lie elsewhere: at web addresses, and wherever fsspec has a filesystem for (s3://, gs://, memory://, …).

Functions that read raise OSError, or ValueError with the reason; what cannot be a source at all raises SourceError.
"""

from __future__ import annotations

import errno
import io
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import IO, Any, NamedTuple
from urllib.parse import quote, urlsplit

from corpus import web
from corpus.records import SourceError, as_source_error
from dual_encoder.image import MAX_BYTES

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_MARKS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "modified", "created")
_BUFFER = 2**20  # bytes asked for at a time while the headers of a shard are read
_AT_ONCE = 16  # questions about single files, each a round trip


class Entry(NamedTuple):
    """What a filesystem tells of a path; `stamp` changes when the file does, and is empty if nothing is told."""

    is_folder: bool
    size: int | None
    stamp: str


def is_remote(path: str) -> bool:
    """Whether `path` is an address of another place, not a path of this machine (which file:// is too)."""
    address = _ADDRESS.match(path)
    return address is not None and address.group(1).lower() not in ("file", "local")


def check(url: str) -> None:
    """SourceError for an address that nothing here can read: its protocol, a missing package, a password in it."""
    if "::" in url:
        raise SourceError(f"{url}: chained addresses (::) are not read")
    try:
        password = urlsplit(url).password
    except ValueError as error:
        raise SourceError(f"{url}: {error}") from None
    if password is not None:  # the address is kept in the index, where everyone can read it
        raise SourceError(f"{url.replace(f':{password}@', ':…@')}: a password belongs in the environment, not here")
    if not web.is_web(url):
        with as_source_error(url):
            _filesystem(url)


def split(url: str) -> tuple[str, str]:
    """An address -> the folder's address and the name in it; a query (`?token=…`) belongs to neither."""
    if web.is_web(url):
        url = re.split(r"[?#]", url, maxsplit=1)[0]
    folder, _, name = url.rpartition("/")
    return (folder + "/" if folder.endswith("/") else folder), name


def join(root: str, name: str) -> str:
    """The address of a file beneath a folder. PermissionError for a name that leads out of it."""
    if name.startswith("/") or ".." in name.split("/") or "\0" in name or _ADDRESS.match(name):
        raise PermissionError(errno.EACCES, "the name leads out of the folder", name)
    return f"{root.rstrip('/') if not root.endswith('://') else root[:-1]}/{quote(name) if web.is_web(root) else name}"


def entry(url: str) -> Entry:
    """What is told of one path; a page of the web is never a folder."""
    if web.is_web(url):
        size, mark = web.facts(url)
        return Entry(False, size, _stamp(size, mark))
    with _plain(url):
        filesystem, path = _filesystem(url)
        return _entry(filesystem.info(path))


def read(url: str, offset: int | None = None, length: int | None = None) -> bytes:
    """The whole of a file of at most MAX_BYTES, or `length` bytes from `offset`."""
    if length is not None and length > MAX_BYTES:
        raise ValueError(f"{length:,} bytes, more than the {MAX_BYTES:,} allowed")
    if web.is_web(url):
        data = web.fetch(url, offset, length)
    else:
        with _plain(url):
            filesystem, path = _filesystem(url)
            data = _piece(filesystem, path, offset or 0, MAX_BYTES + 1 if length is None else length)
    if length is not None and len(data) < length:
        raise ValueError("the file is cut short")
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than the {MAX_BYTES:,} bytes allowed")
    return data


def local_copy(url: str) -> IO[bytes]:
    """A file of any size, copied to a temporary file that goes when it is closed: a build may run for hours."""
    copy = tempfile.NamedTemporaryFile(prefix="crossmodal-")  # noqa: SIM115
    try:
        if web.is_web(url):
            web.copy(url, copy)
        else:
            with _plain(url):
                filesystem, path = _filesystem(url)
                filesystem.get_file(path, copy.name)
        copy.flush()
    except BaseException:
        copy.close()
        raise
    return copy


def open_ranged(url: str) -> io.BufferedReader:
    """A file to read and seek in, fetched piece by piece."""
    size = entry(url).size
    if size is None:
        raise OSError(f"{url}: its size is not told")
    return io.BufferedReader(_Ranged(url, size), _BUFFER)


def walk(url: str) -> list[tuple[str, str]]:
    """(name, stamp) of every file beneath a folder but hidden ones, sorted; the names are relative to it.

    They are held in memory: not every filesystem gives them in order.
    """
    with _plain(url):
        filesystem, path = _filesystem(url)
        found = filesystem.find(path, detail=True)
    prefix = path.rstrip("/") + "/"
    result = []
    for whole, info in found.items():
        name = whole.removeprefix(prefix).lstrip("/")
        if info.get("type") != "directory" and not any(part.startswith(".") for part in name.split("/")):
            result.append((name, _entry(info).stamp))
    return sorted(result)


def stamps(urls: Sequence[str]) -> list[str]:
    """The stamp of each file, several asked for at a time; empty where there is none or nothing is told."""

    def stamp(url: str) -> str:
        try:
            return entry(url).stamp
        except (OSError, ValueError):
            return ""

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(stamp, urls))


class _Ranged(io.RawIOBase):
    def __init__(self, url: str, size: int) -> None:
        self._url, self._size, self._at = url, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        try:
            data = read(self._url, self._at, length)
        except ValueError as error:
            raise OSError(str(error)) from None
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)  # type: ignore[no-any-return]
    except ImportError as error:
        raise OSError(f"a package that reads {url.partition(':')[0]}:// is not installed: {error}") from None
    except ValueError as error:
        if "rotocol not known" in str(error):
            raise ValueError(f"{url.partition(':')[0]}:// is no protocol that fsspec knows") from None
        raise


def _piece(filesystem: Any, path: str, offset: int, length: int) -> bytes:
    try:
        return filesystem.cat_file(path, start=offset, end=offset + length)  # type: ignore[no-any-return]
    except OSError:
        if filesystem.info(path).get("size") == 0:  # some hosts refuse any range of an empty file
            return b""
        raise


@contextmanager
def _plain(url: str) -> Iterator[None]:
    """The many errors of many filesystems as OSError or ValueError, in one line."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such file or folder", url) from None
    except PermissionError:
        raise PermissionError(errno.EACCES, "no permission to read it", url) from None
    except ValueError:
        raise
    except Exception as error:  # each driver has its own: no credentials, no such bucket, no connection
        line = (str(error).splitlines() or [""])[0][:200]
        raise OSError(line if type(error) is OSError and line else f"{type(error).__name__}: {line}") from None


def _entry(info: dict[str, Any]) -> Entry:
    mark = next((info[key] for key in _MARKS if info.get(key) is not None), "")
    mark = mark.timestamp() if isinstance(mark, datetime) else mark
    return Entry(info.get("type") == "directory", info.get("size"), _stamp(info.get("size"), str(mark)))


def _stamp(size: int | None, mark: str) -> str:
    return "" if size is None and not mark else f"{'' if size is None else size}/{mark}"
