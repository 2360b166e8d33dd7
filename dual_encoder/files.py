"""Folders that appear whole or not at all: written beside their place, flushed to disk, then renamed into it.

`fsync` and `sha256` are in vector_index.files too: neither package may know the other.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of renameat2(2)
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `out`, and of all that is in it, if all goes well.

    All of it is on the disk before it is seen there; a link stays one, to the new folder. What an interrupted run left
    behind is removed by the next. Raises OSError: it cannot be written; BlockingIOError: another process is at it.
    """
    out = Path(os.path.realpath(out))
    stage, aside = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")
    new = [folder for folder in out.parents if not folder.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    if aside.exists() and not out.exists():
        aside.rename(out)
    stage.mkdir(exist_ok=True)
    with locked(stage):
        try:
            _empty(stage)
            yield stage
            for path in (*stage.rglob("*"), stage):
                if path.is_dir() or path.is_file():
                    fsync(path)
            if out.is_dir() and any(out.iterdir()):
                with locked(out):  # which nobody then takes for the stage of a run that was killed
                    _exchange(stage, out, aside)
                    shutil.rmtree(stage, ignore_errors=True)
            else:
                stage.rename(out)
            for folder in {out.parent, *(folder.parent for folder in new)}:
                fsync(folder)
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder; the kernel lets go of it when the process ends. Raises BlockingIOError: another one holds it."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(error.errno, "another process is writing it", str(folder)) from None
        except OSError:  # NFS locks no folders
            pass
        if not folder.exists() or not os.path.samestat(folder.stat(), os.fstat(lock)):  # renamed before it was ours
            raise BlockingIOError(errno.EWOULDBLOCK, "another process has just written it", str(folder))
        yield
    finally:
        os.close(lock)


def fsync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def in_native_code(path: Path) -> Iterator[None]:
    """What safetensors, tokenizers and OpenVINO raise where they cannot write `path` is no OSError: make it one."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):
            raise
        raise OSError(errno.EIO, str(error).splitlines()[-1][:200], str(path)) from None


def _exchange(new: Path, old: Path, aside: Path) -> None:
    """Let two folders change places: in one step, or where that cannot be, by way of `aside`."""
    code = _swap(new, old)
    if code == 0:
        return
    if code not in _NO_EXCHANGE:
        raise OSError(code, os.strerror(code), str(old))
    shutil.rmtree(aside, ignore_errors=True)  # on NFS: a kill between the two leaves `aside`, for the next to put back
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    aside.rename(new)


def _swap(one: Path, other: Path) -> int:
    """renameat2(2), which Python does not have; returns its errno, 0 if all went well."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return errno.ENOSYS
    done = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return 0 if done == 0 else ctypes.get_errno()


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
