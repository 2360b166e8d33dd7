"""Files that survive a crash: hashing, flushing to disk, atomic replacement."""

import errno
import hashlib
import os
import shutil
from pathlib import Path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex, reading it in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Flush a file or a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder, and those it lies in, that is still there after a crash."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in new:
        fsync(folder.parent)


def link(path: Path, other: Path) -> None:
    """Give a file that nobody changes a second name; where the file system has no such thing, copy it."""
    try:
        os.link(path, other)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOENT):
            raise
        shutil.copyfile(path, other)
        fsync(other)


def replace_text(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader, or a crash, sees the old content or the new, never a mixture."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(text, encoding="utf-8")
    fsync(beside)
    os.replace(beside, path)
    fsync(path.parent)
