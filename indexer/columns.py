"""The columns of somebody else's tables -> those of an index."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.records import captions_of
from corpus.table import has_bytes
from indexer.metadata import OWN, column_name
from vector_index.tables import common_type

_ID = ("id", "key")
_URI = ("uri", "image_path", "image", "url")
_CAPTIONS = ("captions", "caption", "text")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SIDE = 2**31  # px, the first that int32 cannot hold
_Type: TypeAlias = Any  # pa.DataType, whichever
_Array: TypeAlias = Any


class Columns:
    """What each column of several tables stands for: decided for all of them together, from their schemas alone.

    `id`, `uri` and `captions` are the names of the columns with these, None where there is none; `left_out` are
    columns of bytes, which no filter knows and JSON cannot hold.
    """

    def __init__(self, schemas: Sequence[pa.Schema], skip: Iterable[str] = (), exported: bool = False) -> None:
        """`skip` columns; where an index was `exported`, its own columns are what their names say."""
        self.is_exported = exported
        skip = set(skip)
        types: dict[str, list[_Type]] = {}
        for field in (field for schema in schemas for field in schema):
            if field.name not in skip and not field.name.startswith("__index_level_"):  # pandas' row numbers
                types.setdefault(field.name, []).append(_plain(field.type))

        def first(names: Sequence[str], *fits: Callable[[Any], bool]) -> str | None:
            for name in names:
                given = [kind for kind in types.get(name, ()) if not pa.types.is_null(kind)]
                if given and all(any(fit(kind) for fit in fits) for kind in given):
                    return name
            return None

        self.id = first(_ID, pa.types.is_string, pa.types.is_integer)
        self.uri = first(_URI, pa.types.is_string)
        self.captions = first(_CAPTIONS, pa.types.is_string, _is_texts)
        self._sides = [name for name in ("width", "height") if first([name], pa.types.is_integer, pa.types.is_floating)]
        self._sha256 = first(["sha256"], pa.types.is_string)
        self._own: list[str] = []
        if exported:
            self._own = [name for name in ("offset", "length") if first([name], pa.types.is_integer)]
            self._own += [name for name in ("duplicate_uris",) if first([name], _is_texts)]
        used = {self.id, self.uri, self.captions, self._sha256, *self._sides, *self._own}
        used |= {name for name in OWN if all(map(pa.types.is_null, types.get(name, ())))}
        more = {name: [_kept(kind) for kind in kinds] for name, kinds in types.items() if name not in used}
        self.left_out = [name for name, kinds in more.items() if None in kinds]
        self._metadata: dict[str, tuple[str, _Type]] = {}  # name -> column, type
        for name in sorted(name for name in more if name not in self.left_out):
            column = column_name(name)
            while column != name and column in more:
                column = f"meta_{column}"
            self._metadata[name] = column, common_type(more[name])

    def texts(self, batch: pa.RecordBatch, name: str | None) -> list[str | None]:
        """A column of strings or whole numbers as strings; None where there is nothing."""
        if name is None or name not in batch.schema.names:
            return [None] * batch.num_rows
        return [None if value in (None, "") else str(value) for value in batch.column(name).to_pylist()]

    def captions_of(self, batch: pa.RecordBatch) -> list[list[str]]:
        """The captions of each row, each once."""
        if self.captions is None or self.captions not in batch.schema.names:
            return [[] for _ in range(batch.num_rows)]
        return [list(dict.fromkeys(captions_of(value))) for value in batch.column(self.captions).to_pylist()]

    def images(self, batch: pa.RecordBatch, known: dict[str, list[Any]]) -> pa.RecordBatch:
        """Rows as the images of an index have them, the `known` columns (id, uri, captions) as they are given."""
        own = {**known, "duplicate_uris": [[]] * batch.num_rows}
        own |= {name: _sides(batch, name) for name in self._sides}
        own |= {name: batch.column(name).to_pylist() for name in self._own if name in batch.schema.names}
        if self._sha256 is not None:
            values = self.texts(batch, self._sha256)
            own["sha256"] = [value if value and _SHA256.fullmatch(value) else None for value in values]
        nothing = [None] * batch.num_rows
        columns = {name: pa.array(own.get(name, nothing), kind) for name, kind in OWN.items()}
        for name, (column, kind) in self._metadata.items():
            has = name in batch.schema.names
            columns[column] = _as(batch.column(name), kind) if has else pa.nulls(batch.num_rows, kind)
        return pa.RecordBatch.from_pydict(columns)


def _sides(batch: pa.RecordBatch, name: str) -> list[int | None]:
    """Pixels, as whole numbers; pandas makes floats of them where one is missing."""
    values = batch.column(name).to_pylist() if name in batch.schema.names else [None] * batch.num_rows
    return [int(v) if v is not None and 1 <= v < _SIDE and v == int(v) else None for v in values]


def _plain(kind: _Type) -> _Type:
    """A type without its encoding."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return kind


def _is_texts(kind: _Type) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return is_list and (pa.types.is_string(_plain(kind.value_type)) or pa.types.is_null(kind.value_type))


def _kept(kind: _Type) -> _Type | None:
    """The type that a column has in an index: its own if filters know it, else string; None for bytes."""
    if has_bytes(kind):
        return None
    if _is_texts(kind):
        return pa.list_(pa.string())
    if pa.types.is_float16(kind):
        return pa.float32()
    is_known = any(is_it(kind) for is_it in (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating))
    return kind if is_known or pa.types.is_null(kind) else pa.string()


def _as(column: _Array, kind: _Type) -> _Array:
    given = column.type
    if pa.types.is_list(kind):
        return pa.array([v and [text for text in v if text is not None] for v in column.to_pylist()], kind)
    if given == kind:
        return column
    if pa.types.is_nested(given):
        values = column.to_pylist()
        return pa.array([None if v is None else json.dumps(v, ensure_ascii=False, default=str) for v in values], kind)
    if pa.types.is_timestamp(given):
        zone = "Z" if given.tz else ""
        texts = column.cast(pa.timestamp(given.unit)).cast(pa.string())  # in UTC where there is a zone
        return pc.binary_join_element_wise(pc.replace_substring(texts, " ", "T"), zone, "")
    if pa.types.is_floating(kind) and pa.types.is_integer(given):
        return column.cast(kind, safe=False)  # above 2^53 rounded
    return column.cast(kind)


def evenly_spaced(count: int, some: int) -> list[int]:
    """At most `some` of 0 … count - 1, evenly spread."""
    spaced: list[int] = np.linspace(0, max(count - 1, 0), min(count, some)).astype(np.int64).tolist()
    return spaced
