"""DATA appears whole or not at all, and takes the place of nothing but older DATA."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dual_encoder import files
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
    with ExitStack() as stack:
        try:
            stage = stack.enter_context(files.staged(out))
        except OSError as error:
            raise PrepareError(f"{out}: cannot be written: {error.strerror}") from None
        work = stage / _WORK
        work.mkdir()
        yield stage, work
        shutil.rmtree(work)
        _may_replace(out, overwrite)  # things may have changed meanwhile


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
