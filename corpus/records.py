"""What a source gives: one record a picture, in an order that does not change."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_WRITTEN_OUT = re.compile(r"\\u(dc[89a-f][0-9a-f])")  # a byte from 80 to ff, as Python holds it in a name


class SourceError(Exception):
    """A corpus that cannot be indexed; the message names it and says what is expected."""


@contextmanager
def as_source_error(path: str | Path) -> Iterator[None]:
    """What cannot be read of a corpus, an OSError or a ValueError, as a SourceError that names it."""
    try:
        yield
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from None


@dataclass(frozen=True)
class Record:
    """A picture not yet read.

    `uri` is relative to the source's root, or a URL; `offset` and `length` (bytes) say where in a tar it lies;
    `stamp` changes when the file does. `read` raises OSError, or ValueError with the reason.
    """

    uri: str
    read: Callable[[], bytes]
    stamp: str = ""
    id: str | None = None
    captions: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    offset: int | None = None
    length: int | None = None


def refuse(reason: str) -> bytes:
    """The `read` of a record that has nothing to be read."""
    raise ValueError(reason)


@dataclass(frozen=True)
class Source:
    """A corpus: where it lies, how to walk it from its beginning, and how many records it has if that is known."""

    root: str
    records: Callable[[], Iterator[Record]]
    count: int | None = None


def file_stamp(path: Path) -> str:
    """Size and modification time; empty if there is no such file (reading it will say so)."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a NUL byte in the name
        return ""
    return f"{status.st_size}/{status.st_mtime_ns}"


def captions_of(value: Any) -> tuple[str, ...]:
    """A caption column's value: a string, a list of strings, or nothing (NaN, where pandas wrote the table).

    Raises ValueError for what is no text, such as an object of JSON.
    """
    values = [v for v in (value if isinstance(value, list | tuple) else [value]) if v is not None and v == v]
    if odd := [v for v in values if not isinstance(v, str | int | float)]:
        raise ValueError(f"its caption is no text but a {type(odd[0]).__name__}")
    return tuple(text for text in (as_utf8(str(v)).strip() for v in values) if text)


def as_utf8(text: str) -> str:
    """Text that UTF-8 can hold: lone surrogates (broken JSON escapes, undecodable file names) become `?`."""
    return text.encode("utf-8", "replace").decode()


def as_address(name: str) -> str:
    """A name that UTF-8 can hold, and no other file's: bytes that are no UTF-8 are written out, `\\udce9`."""
    return name.encode("utf-8", "backslashreplace").decode()


def as_name(address: str) -> str:
    """The name that `as_address` was given, but for one that has such a `\\udce9` of its own."""
    return _WRITTEN_OUT.sub(lambda found: chr(int(found[1], 16)), address)
