"""A folder of pictures, walked in the order of their paths."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from dual_encoder.image import MAX_BYTES
from indexer.records import Record, Source, as_utf8, file_stamp

SUFFIXES = frozenset(
    {
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".avif",
        ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".qoi",
    }
)  # fmt: skip


def open_folder(root: Path, captions: dict[str, tuple[str, ...]] | None = None) -> Source:
    """`captions` maps paths relative to the root to captions. Links are not followed out of the root."""
    root = root.resolve()
    names = _walk(root)

    def records() -> Iterator[Record]:
        for name in names:
            record = file_record(root, name)
            yield replace(record, captions=captions.get(name, ())) if captions else record

    return Source(str(root), records, len(names))


def file_record(root: Path, name: str) -> Record:
    """The record of one file; `name` is relative to the root."""
    path = root / name
    return Record(uri=as_utf8(name), read=partial(_read, path), stamp=file_stamp(path))


def _read(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise ValueError("not a regular file")
    if status.st_size > MAX_BYTES:
        raise ValueError(f"the file has {status.st_size:,} bytes, more than the {MAX_BYTES:,} allowed")
    return path.read_bytes()


def _walk(root: Path) -> list[str]:
    found = []
    for folder, folders, files in os.walk(root):  # does not follow links to folders
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = Path(folder, name)
            if path.suffix.lower() not in SUFFIXES or name.startswith("."):
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                continue
            found.append(path.relative_to(root).as_posix())
    return sorted(found)
