"""What is fuzzed: functions of bytes that raise only for what they may not do."""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from dual_encoder import ImageError
from dual_encoder.image import open_image
from dual_encoder.preprocess import Preprocess
from service import intake
from service.errors import Problem
from service.schemas import ByUrl, SearchRequest
from vector_index import (
    BadFilter,
    Filter,
    IndexDirectory,
    ModelStamp,
    Snapshot,
    SnapshotCorrupt,
    SnapshotWriter,
    UnsupportedFormat,
)
from vector_index.manifest import read_manifest
from vector_index.tables import MappedTable, TableWriter

_SCHEMA = pa.schema(
    [("id", pa.string()), ("year", pa.int32()), ("score", pa.float64()), ("licence", pa.large_string()),
     ("free", pa.bool_()), ("tags", pa.list_(pa.string())), ("small", pa.uint8()), ("sizes", pa.list_(pa.int64())),
     ("taken", pa.timestamp("us"))]
)  # fmt: skip
_PREPROCESS = Preprocess((32, 48), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def image(data: bytes) -> None:
    """A file, or a data: URI of one, as clients send them -> pixels, or a reason that fits into one line."""
    if data[:5] == b"data:":
        try:
            data = intake.from_data_uri(data.decode("latin-1"))
        except Problem as error:
            assert error.status == 422
            return
    try:
        found = open_image(data, 32, max_bytes=2**20, max_pixels=2**18)
    except ImageError as error:
        assert str(error)
        return
    assert found.width * found.height <= 2**18
    assert _PREPROCESS(found.image).shape == (3, 32, 48)


def filter(data: bytes) -> None:
    """A filter as JSON: in a body, and in a URL -> a mask that its opposite completes, or a reason."""
    with contextlib.suppress(ValidationError, UnicodeDecodeError):
        options = ByUrl.of([("filter", data.decode())]).model_dump(exclude_unset=True)
        _apply(SearchRequest.model_validate({"query": {"text": "a"}, **options}))
    with contextlib.suppress(ValidationError):
        _apply(SearchRequest.model_validate_json(b'{"query": {"text": "a"}, "filter": ' + data + b"}"))


def _apply(wanted: SearchRequest) -> None:
    if wanted.filter is None:
        return
    try:
        parsed = Filter.parse(wanted.filter, _SCHEMA)
    except (BadFilter, OverflowError):  # both are answered 422
        return
    table = _table()
    kept = parsed.mask(table)
    assert kept.dtype == bool
    assert len(kept) == 60
    with contextlib.suppress(BadFilter):  # one deeper than is allowed
        assert (Filter.parse({"$not": wanted.filter}, _SCHEMA).mask(table) == ~kept).all()


def manifest(data: bytes) -> None:
    """manifest.json of a snapshot -> that, open, its manifest written as it was read, or an error that names a file."""
    folder = snapshot()
    (folder / "manifest.json").write_bytes(data)
    try:
        with Snapshot(folder) as found:
            text = found.manifest.to_json()
    except (SnapshotCorrupt, UnsupportedFormat) as error:
        assert str(folder) in str(error)
        return
    (folder / "manifest.json").write_text(text, "utf-8")
    assert read_manifest(folder) == found.manifest


TARGETS: dict[str, Callable[[bytes], None]] = {"image": image, "filter": filter, "manifest": manifest}


@functools.cache
def _folder() -> Path:
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def snapshot() -> Path:
    """The folder of one of three pictures and two captions."""
    vectors = np.eye(3, 4, dtype=np.float32)
    directory = IndexDirectory(_folder() / "index")
    with SnapshotWriter(directory, model=ModelStamp(reference="tiny", fingerprint="f00d", dim=4), source="s") as writer:
        writer.add_images(pa.record_batch({"id": ["a", "b", "c"], "uri": ["1", "2", "3"]}), vectors, [b"w", None, b"x"])
        writer.add_texts(
            pa.record_batch({"id": ["t", "u"], "text": ["t", "u"], "image_ids": [["a"], ["b"]]}), vectors[:2]
        )
        return directory.snapshots / writer.publish()


@functools.cache
def _table() -> MappedTable:
    rows = [
        {"id": f"i{n}", "year": None if n % 7 == 0 else 1990 + n % 5, "score": None if n % 5 == 0 else n / 4 - 2,
         "licence": [None, "CC0", "CC-BY", "雨"][n % 4], "free": [True, False, None][n % 3],
         "tags": [None, [], ["a"], ["a", "b"], ["b", None]][n % 5], "small": n, "sizes": [n, -n, 2**63 - 1 - n], "taken": None}
        for n in range(60)
    ]  # fmt: skip
    path = _folder() / "t.arrow"
    writer = TableWriter(path, _SCHEMA, batch_rows=16)
    writer.append(pa.RecordBatch.from_pylist(rows, _SCHEMA))
    writer.close()
    return MappedTable(path)
