"""DATA appears whole or not at all: it is written beside its place, then renamed into it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.prepare.errors import PrepareError

FORMAT = "crossmodal-pairs"
VERSION = 1
MANIFEST = "manifest.json"
_WORK = ".work"


@contextmanager
def staged(out: Path, overwrite: bool) -> Iterator[tuple[Path, Path]]:
    """Yield (folder to fill, folder for what is only needed meanwhile); publish the first as `out` if all goes well.

    What an interrupted run left behind is removed by the next. Raises PrepareError: `out` holds something that may
    not be replaced, cannot be written, or is being prepared by another process.
    """
    out = Path(os.path.abspath(out))
    _may_replace(out, overwrite)
    stage = out.parent / f".{out.name}.partial"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage.mkdir(exist_ok=True)
        lock = os.open(stage, os.O_RDONLY)
    except OSError as error:
        raise PrepareError(f"{out}: cannot be written: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise PrepareError(f"{out}: another process is preparing it") from None
        if not stage.exists() or stage.stat().st_ino != os.fstat(lock).st_ino:  # renamed before the lock was ours
            raise PrepareError(f"{out}: another process has just prepared it")
        try:
            _empty(stage)
            work = stage / _WORK
            work.mkdir()
            yield stage, work
            shutil.rmtree(work)
            _publish(stage, out, overwrite)
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def _may_replace(out: Path, overwrite: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        raise PrepareError(f"{out}: is a file, not a folder")
    if not any(out.iterdir()):
        return
    if not overwrite:
        raise PrepareError(f"{out}: is not empty; --overwrite replaces it")
    try:
        prepared = json.loads((out / MANIFEST).read_bytes()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        prepared = False
    if not prepared:
        raise PrepareError(f"{out}: holds something other than prepared data; it will not be replaced")


def _publish(stage: Path, out: Path, overwrite: bool) -> None:
    _may_replace(out, overwrite)  # things may have changed meanwhile
    old = out.parent / f".{out.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    try:
        if out.is_dir() and any(out.iterdir()):
            out.rename(old)
        stage.rename(out)
    except OSError as error:
        if old.exists() and not out.exists():
            old.rename(out)
        raise PrepareError(f"{out}: cannot be written: {error.strerror}") from None
    shutil.rmtree(old, ignore_errors=True)
    folder = os.open(out.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
