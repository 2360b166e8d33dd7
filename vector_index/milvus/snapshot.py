"""A snapshot in Milvus: two collections, and a third that says what they are."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ValidationError

from vector_index.errors import SnapshotCorrupt
from vector_index.manifest import Manifest
from vector_index.milvus.collection import MilvusCollection
from vector_index.milvus.columns import ROW, THUMBNAIL
from vector_index.milvus.connection import Connection, NotThere

ABOUT: Final = "about"
PART: Final = "part"
PART_BYTES: Final = 60_000
_BLOCK: Final = 1_000  # rows verified at a time
_NORM_TOLERANCE: Final = 1e-2


class Record(BaseModel):
    """What is known about a snapshot in Milvus, written last: its name, its manifest, the Arrow schemas of its tables
    (IPC, base64), whether pictures have thumbnails."""

    snapshot: str
    manifest: Manifest
    schemas: dict[str, str]
    thumbnails: bool

    def to_json(self) -> str:
        """ASCII, so that a byte is a character."""
        return json.dumps(self.model_dump(mode="json", by_alias=True))


def schema_text(schema: pa.Schema) -> str:
    """An Arrow schema as a record has it."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


class MilvusSnapshot:
    """One immutable state of an index, as `vector_index.Snapshot`. Collections live until `MilvusStore.collect`."""

    index_files: Sequence[Path] = ()

    def __init__(self, connection: Connection, base: str, record: Record) -> None:
        """`base` is the collection of the pictures; those of the texts and the record are named after it. No call."""
        self.name, self.manifest, self.has_thumbnails = record.snapshot, record.manifest, record.thumbnails
        dim = record.manifest.model.dim
        self.images, self.texts = (
            MilvusCollection(
                connection,
                name,
                pa.ipc.read_schema(pa.py_buffer(base64.b64decode(record.schemas[kind]))),
                dim,
                stamp.rows,
                stamp.index,
            )
            for kind, name, stamp in (
                ("images", base, record.manifest.images),
                ("texts", f"{base}_texts", record.manifest.texts),
            )
        )

    def __repr__(self) -> str:
        return f"MilvusSnapshot({self.name!r})"

    @property
    def collections(self) -> list[MilvusCollection]:
        """Those that have rows; one without is not made."""
        return [each for each in (self.images, self.texts) if len(each)]

    def thumbnail(self, row: int) -> bytes | None:
        """Return the thumbnail of the picture at `row`, None where it has none."""
        text = self.images.fetch([row], [THUMBNAIL])[0][THUMBNAIL] if self.has_thumbnails else None
        return None if text is None else base64.b64decode(text)

    def check_files(self) -> list[str]:
        """Whether all rows are there, as Milvus counts them."""
        problems = []
        for each in self.collections:
            try:
                if (there := each.counted()) != len(each):
                    problems.append(f"{each.name}: {there:,} rows, {len(each):,} were published")
            except NotThere:
                problems.append(f"{each.name} is not there")
        return problems

    def verify(self) -> list[str]:
        """Read every row: ids are unique, vectors of unit length, and texts name images that exist."""
        if problems := self.check_files():
            return problems
        ids: dict[str, set[str]] = {}
        try:
            for kind, collection in (("images", self.images), ("texts", self.texts)):
                ids[kind] = set()
                for table, vectors in _blocks(collection, ["id"] + ["image_ids"] * (kind == "texts")):
                    for id in map(str, table["id"].to_pylist()):
                        if id in ids[kind]:
                            problems.append(f"{kind}: id {id!r} is there twice")
                        ids[kind].add(id)
                    off = np.flatnonzero(~(np.abs(np.linalg.norm(vectors, axis=1) - 1) <= _NORM_TOLERANCE))
                    problems += [f"{kind}: the vector of {table['id'][int(row)]} is not of length 1" for row in off]
                    if kind == "texts":
                        named = set(pc.list_flatten(table["image_ids"]).to_pylist())
                        missing = sorted(map(str, named - ids["images"]))
                        problems += [f"texts: one names image {id!r}, which does not exist" for id in missing]
        except SnapshotCorrupt as error:
            problems.append(str(error))
        return problems[:20]


def _blocks(collection: MilvusCollection, columns: list[str]) -> Iterator[tuple[pa.Table, Any]]:
    for start in range(0, len(collection), _BLOCK):
        rows = range(start, min(start + _BLOCK, len(collection)))
        yield collection.take(rows, columns), collection.vectors(rows)


def read_record(connection: Connection, base: str) -> Record:
    """Read what is known about the snapshot whose pictures are in the collection `base`.

    Raises:
        NotThere: there is none, so it was not published whole.
        SnapshotCorrupt: it cannot be read.
    """
    name = f"{base}_{ABOUT}"
    rows = connection.call("query", name, filter=f"{ROW} >= 0", output_fields=[ROW, PART], consistency_level="Strong")
    text = "".join(row[PART] for row in sorted(rows, key=lambda row: row[ROW]))
    try:
        return Record.model_validate_json(text)
    except ValidationError as error:
        raise SnapshotCorrupt(f"{name}: not the record of a snapshot: {error.errors()[0]['msg']}") from None
