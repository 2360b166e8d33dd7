"""Columns of an Arrow table as fields of a Milvus collection, and back."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

ROW: Final = "row"  # the primary key: rows are numbered from 0
VECTOR: Final = "vector"
THUMBNAIL: Final = "thumbnail"
MOST_BYTES: Final = 65_535  # of a text, Milvus' limit
MOST_ITEMS: Final = 4_096  # of a list, Milvus' limit
_UNFIT: Final = re.compile("[^A-Za-z0-9_]")


@dataclass(frozen=True)
class Field:
    """A column: its name in Milvus, None where nothing is stored, and the Arrow type of its values or its lists'."""

    name: str | None
    kind: Any
    is_list: bool


def fields_of(schema: pa.Schema) -> dict[str, Field]:
    """The field of each column. Its name begins with the column's number: so it is fit for Milvus, and like no other.

    Raises:
        ValueError: a column of a type that cannot be stored.
    """
    fields = {}
    for number, column in enumerate(schema):
        is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        kind = column.type.value_type if is_list else column.type
        name = f"c{number}_{_UNFIT.sub('_', column.name)[:100]}"
        if pa.types.is_null(kind):
            fields[column.name] = Field(None, kind, is_list)
        elif _stored(kind) is None:
            raise ValueError(f"column {column.name!r} is of {column.type}, which the store has no type for")
        else:
            fields[column.name] = Field(name, kind, is_list)
    return fields


def add_fields(schema: Any, fields: Mapping[str, Field], types: Any) -> None:
    """Add them to a pymilvus schema; `types` is pymilvus.DataType."""
    for field in fields.values():
        if field.name is None:
            continue
        kind = getattr(types, _stored(field.kind) or "")
        length = {"max_length": MOST_BYTES} if kind == types.VARCHAR else {}
        if field.is_list:
            schema.add_field(
                field.name, types.ARRAY, element_type=kind, max_capacity=MOST_ITEMS, nullable=True, **length
            )
        else:
            schema.add_field(field.name, kind, nullable=True, **length)


def entities(table: pa.Table, fields: Mapping[str, Field]) -> Iterator[dict[str, Any]]:
    """Rows as pymilvus inserts them, without key and vector.

    Raises:
        ValueError: a value that cannot be stored: longer than MOST_BYTES or MOST_ITEMS, or a list with null in it.
    """
    columns = {field.name: _values(name, table[name], field) for name, field in fields.items() if field.name}
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def table_of(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, fields: Mapping[str, Field]) -> pa.Table:
    """Rows as pymilvus returns them -> a table of `schema`."""
    arrays = []
    for column in schema:
        name = fields[column.name].name
        values = [None] * len(rows) if name is None else [row[name] for row in rows]
        arrays.append(pa.array(values, column.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _stored(kind: Any) -> str | None:
    """What a type is in Milvus; None for one that it has nothing for."""
    if pa.types.is_boolean(kind):
        return "BOOL"
    if pa.types.is_integer(kind):
        return "INT64"
    if pa.types.is_floating(kind):
        return "DOUBLE"
    return "VARCHAR" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None


def _values(name: str, column: pa.ChunkedArray[Any], field: Field) -> list[Any]:
    items: Any = pc.list_flatten(column) if field.is_list else column
    if field.is_list:
        if items.null_count:
            raise ValueError(f"column {name!r} has a list with null in it, which the store cannot hold")
        longest = pc.max(pc.list_value_length(column)).as_py() or 0
        if longest > MOST_ITEMS:
            raise ValueError(f"column {name!r} has a list of {longest:,} values; the store holds {MOST_ITEMS:,}")
    if _stored(field.kind) == "VARCHAR":
        longest = pc.max(pc.binary_length(items)).as_py() or 0
        if longest > MOST_BYTES:
            raise ValueError(f"column {name!r} has a text of {longest:,} bytes; the store holds {MOST_BYTES:,}")
    if _stored(field.kind) == "INT64":
        items.cast(pa.int64())  # raises for what is larger
    values: list[Any] = column.to_pylist()
    if _stored(field.kind) == "DOUBLE":
        # NaN and infinity are null in JSON too, which is what hits are told in; a list cannot have null in it
        return [[each for each in v if math.isfinite(each)] if isinstance(v, list) else _finite(v) for v in values]
    return values


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
