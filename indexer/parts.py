"""The work of a build in durable parts: each holds all there is to know of some consecutive records.

A part is written beside its place, flushed and renamed, so that it is there whole or not at all. Killing a build loses
at most the part in the making.
"""

from __future__ import annotations

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

PLAN = "plan.json"

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
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / PLAN, json.dumps(plan).encode())

    def load(self, number: int) -> list[dict[str, Any]] | None:
        """The rows of a finished part, None if it is not finished."""
        path = self._path(number)
        if not path.exists():
            return None
        try:
            with pa.memory_map(str(path)) as file:
                return pa.ipc.open_file(file).read_all().to_pylist()
        except (pa.ArrowException, OSError):
            return None

    def save(self, number: int, rows: list[dict[str, Any]]) -> None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, SCHEMA) as writer:
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
        write_durably(self._path(number), sink.getvalue())

    def discard_from(self, number: int) -> None:
        """Forget this part and all later ones: they build on what came before them."""
        while self._path(number).exists():
            self._path(number).unlink()
            number += 1

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.arrow"

    def _planned(self) -> Any:
        try:
            return json.loads((self.folder / PLAN).read_bytes())
        except (OSError, ValueError):
            return None


def write_durably(path: Path, data: Any) -> None:
    """Write, flush to the disk, rename into place."""
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def unpack(vectors: Sequence[bytes], dim: int) -> NDArray[np.float32]:
    """float32 (n, dim) of what the parts hold."""
    return np.frombuffer(b"".join(vectors), dtype=np.float32).reshape(-1, dim)
