"""The work of a build in durable parts: each holds all there is to know of some consecutive records.

A part is written beside its place, flushed and renamed, so that it is there whole or not at all; its SHA-256 comes last
in it. Killing a build loses at most the part in the making.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vector_index.files import fsync

PLAN = "plan.json"
_DIGEST = hashlib.sha256().digest_size

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("stamp", pa.string()),
        ("reject", pa.string()),  # why the picture is left out; null for a good one
        ("caption_rejects", pa.list_(pa.string())),
        ("sha256", pa.string()),
        ("id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("captions", pa.list_(pa.string())),
        ("metadata", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("thumbnail", pa.binary()),
        ("vector", pa.binary()),  # float32; null for a picture that came before
        ("text_vectors", pa.list_(pa.binary())),  # of the captions that are new with this record
        ("new_texts", pa.list_(pa.string())),
    ]
)


class Workbench:
    """INDEX/.build: a plan and the finished parts. A plan other than the one found discards what was done."""

    def __init__(self, folder: Path, plan: dict[str, Any], resume: bool) -> None:
        self.folder = folder
        if not (resume and self._planned() == plan):
            if resume and folder.exists():
                log.warning("%s: an unfinished build with another model, source or setting is discarded", folder)
            (folder / PLAN).unlink(missing_ok=True)  # first: without it nothing counts as finished
            if folder.exists():
                shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / PLAN, json.dumps(plan).encode())

    def load(self, number: int) -> list[dict[str, Any]] | None:
        """The rows of a finished part, None if it is not finished."""
        try:
            content = self._path(number).read_bytes()
        except OSError:
            return None
        data = memoryview(content)[:-_DIGEST]
        if hashlib.sha256(data).digest() != content[-_DIGEST:]:
            return None
        return pa.ipc.open_file(pa.py_buffer(data)).read_all().to_pylist()

    def save(self, number: int, rows: list[dict[str, Any]]) -> None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, SCHEMA) as writer:
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
        data = sink.getvalue()
        write_durably(self._path(number), data, hashlib.sha256(data).digest())

    def discard_from(self, number: int) -> None:
        """Forget this part and all later ones: they build on what came before them."""
        for path in self.folder.glob("part-*"):
            if path.name >= self._path(number).name:
                path.unlink()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.arrow"

    def _planned(self) -> Any:
        try:
            return json.loads((self.folder / PLAN).read_bytes())
        except (OSError, ValueError):
            return None


def write_durably(path: Path, *data: Any) -> None:
    """Write one after the other, flush to the disk, rename into place."""
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("wb") as file:
        for each in data:
            file.write(each)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    fsync(path.parent)


def unpack(vectors: Sequence[bytes], dim: int) -> NDArray[np.float32]:
    """float32 (n, dim) of what the parts hold."""
    return np.frombuffer(b"".join(vectors), dtype=np.float32).reshape(-1, dim)
