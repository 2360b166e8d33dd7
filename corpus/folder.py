"""A folder of pictures, walked in the order of their paths."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

from corpus.files import read, read_local
from corpus.records import Record, Source, SourceError, as_address, file_stamp

SUFFIXES = frozenset(
    {
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".avif",
        ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico",
    }
)  # fmt: skip
_LISTED = SUFFIXES | {".heic", ".heif"}  # as telephones write them: not read here, which is to be said of each

Captions: TypeAlias = Mapping[str, tuple[str, ...]]  # by path, relative to the root
NO_CAPTIONS: Final[Captions] = MappingProxyType({})

log = logging.getLogger(__name__)


def open_folder(root: Path, captions: Captions = NO_CAPTIONS) -> Source:
    """Links are not followed out of the root.

    The folder is walked once to count and once to read: its names are not kept.
    """
    root = root.resolve()

    def records() -> Iterator[Record]:
        return (file_record(root, name, captions.get(name, ())) for name in _walk(root))

    return Source(str(root), records, _count(str(root), _walk(root), captions))


def file_record(root: Path, name: str, captions: tuple[str, ...] = ()) -> Record:
    """The record of one file; `name` is relative to the root."""
    path = root / name
    return Record(uri=as_address(name), read=partial(read_local, path), stamp=file_stamp(path), captions=captions)


def open_remote_folder(root: str, files: Sequence[tuple[str, str]], captions: Captions = NO_CAPTIONS) -> Source:
    """As `open_folder`, at an address whose `files` are (name, stamp), as of `remote.walk`."""
    found = [(name, stamp) for name, stamp in files if os.path.splitext(name)[1].lower() in _LISTED]

    def records() -> Iterator[Record]:
        for name, stamp in found:
            read_again = partial(read, root, name)
            yield Record(uri=as_address(name), read=read_again, stamp=stamp, captions=captions.get(name, ()))

    return Source(root, records, _count(root, (name for name, _ in found), captions))


def _count(root: str, names: Iterable[str], captions: Captions) -> int:
    """How many names there are. SourceError where captions are of none of them, a warning where some are of others."""
    count, left = 0, set(captions)
    for name in names:
        count += 1
        left.discard(name)
    if left and count:
        said = f"captions are told of {len(left):,} pictures that are not there, such as {min(left)!r}"
        if len(left) == len(captions):
            raise SourceError(f"{root}: {said}, and of no other; `image` is relative to the folder")
        log.warning("%s: %s", root, said)
    return count


def _walk(root: Path) -> Iterator[str]:
    """Names relative to the root in the order of their code points; holds one folder's entries at a time.

    A folder that may not be read comes as a name itself, so that reading it says why.
    """
    waiting = [_entries(root, "")]
    while waiting:
        name = next(waiting[-1], None)
        if name is None:
            waiting.pop()
        elif name.endswith("/"):
            try:
                waiting.append(_entries(root, name))
            except OSError:
                yield name
        else:
            yield name


def _entries(root: Path, folder: str) -> Iterator[str]:
    """Pictures, and folders with a slash at their end: sorted so, a depth-first walk is in the order of whole paths."""
    found = []
    with os.scandir(root / folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                if not entry.is_symlink():
                    found.append(f"{folder}{entry.name}/")
            elif os.path.splitext(entry.name)[1].lower() in _LISTED and not (
                # Not Path.resolve: before Python 3.13 it fails on a link that leads to itself.
                entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(root)
            ):
                found.append(folder + entry.name)
    return iter(sorted(found))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
