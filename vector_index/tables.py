"""Arrow tables on disk: written in bounded memory, read through a memory map."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vector_index.kinds import Ints

BATCH_ROWS: Final = 65_536
THUMBNAIL_BATCH_ROWS: Final = 4_096  # some kilobytes a row, and a batch is held in memory until it is full

IMAGE_SCHEMA: Final = pa.schema([("id", pa.string()), ("uri", pa.string())])
TEXT_SCHEMA: Final = pa.schema([("id", pa.string()), ("text", pa.string()), ("image_ids", pa.list_(pa.string()))])
THUMBNAIL_SCHEMA: Final = pa.schema([("thumbnail", pa.binary())])

Rows: TypeAlias = Sequence[int] | npt.NDArray[np.integer[Any]]


class TableWriter:
    """Writes an Arrow IPC file, gathering what it is given into record batches of `batch_rows` rows."""

    def __init__(self, path: Path, schema: pa.Schema, batch_rows: int = BATCH_ROWS) -> None:
        self.schema = schema
        self.rows = 0
        self._batch_rows = batch_rows
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, schema)

    def append(self, batch: pa.RecordBatch) -> None:
        """Add the rows of a batch of this table's schema."""
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        self.rows += batch.num_rows
        if self._pending_rows >= self._batch_rows:
            self._write_pending(keep=self._pending_rows % self._batch_rows)

    def close(self) -> None:
        """Write what is left and the file's footer. May be called again."""
        if not self._sink.closed:
            self._write_pending(keep=0)
            self._writer.close()
            self._sink.close()

    def _write_pending(self, keep: int) -> None:
        table = pa.Table.from_batches(self._pending, schema=self.schema)
        full = table.num_rows - keep
        for start in range(0, full, self._batch_rows):
            for batch in table.slice(start, min(self._batch_rows, full - start)).combine_chunks().to_batches():
                self._writer.write_batch(batch)
        self._pending = table.slice(full).combine_chunks().to_batches()  # a copy, so that the rest can go
        self._pending_rows = keep


class MappedTable:
    """An Arrow IPC file in a memory map: opening it reads its footer and the headers of its batches, no column."""

    def __init__(self, path: Path) -> None:
        """Open `path`.

        Raises:
            OSError, pyarrow.ArrowInvalid: it cannot be read as an Arrow IPC file.
        """
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self.stored = reader.schema
        self.schema = self.stored
        self.batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self.batches)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def column(self, name: str) -> "pa.ChunkedArray[Any]":
        """Return a whole column, still in the map where it is stored as the schema has it."""
        return pa.chunked_array([self._column(batch, name) for batch in self.batches], self.schema.field(name).type)

    def value(self, name: str, row: int) -> Any:
        """Return one value as a Python object, 0 <= row < len."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        place = row - int(self._starts[number])
        return self._column(self.batches[number].slice(place, 1), name)[0].as_py()

    def take(self, rows: Rows, columns: list[str] | None = None) -> pa.Table:
        """Return the given rows in the order given, duplicates allowed, of all columns or those named.

        `Table.take` would first copy the whole of each column into one chunk. Here the rows are grouped by record
        batch, taken batch by batch, and put back into their order: the cost is that of the rows asked for.

        Raises:
            IndexError: a row out of range.
            KeyError: an unknown column.
        """
        wanted = check_rows(rows, len(self))
        names = self.schema.names if columns is None else columns
        schema = pa.schema([self.schema.field(name) for name in names])
        if len(self.batches) == 1:
            return pa.Table.from_batches([self._take(self.batches[0], wanted, schema)])
        order, groups = group_rows(wanted, self._starts)
        pieces = [self._take(self.batches[number], its, schema) for number, its in groups]
        return pa.Table.from_batches(pieces, schema).combine_chunks().take(arrow_indices(order))

    def _take(self, batch: pa.RecordBatch, rows: Ints, schema: pa.Schema) -> pa.RecordBatch:
        taken = batch.select([name for name in schema.names if name in self.stored.names]).take(arrow_indices(rows))
        if taken.schema.equals(schema):
            return taken
        return pa.record_batch([self._column(taken, name) for name in schema.names], schema=schema)

    def _column(self, batch: pa.RecordBatch, name: str) -> "pa.Array[Any]":
        kind = self.schema.field(name).type
        if name not in self.stored.names:
            nothing: pa.Array[Any] = pa.nulls(batch.num_rows, kind)
            return nothing
        stored: pa.Array[Any] = batch.column(name)
        return stored if stored.type == kind else _cast(stored, kind)


def _cast(column: "pa.Array[Any]", kind: Any) -> "pa.Array[Any]":
    """Whole numbers of any size become floats, the nearest; lists of texts become texts of JSON."""
    if pa.types.is_list(column.type) and pa.types.is_string(column.type.value_type) and pa.types.is_string(kind):
        lists = column.to_pylist()
        return pa.array([None if v is None else json.dumps(v, ensure_ascii=False) for v in lists], kind)
    return column.cast(kind, safe=not pa.types.is_floating(kind))


def arrow_indices(rows: Ints) -> "pa.Array[Any]":
    """Row numbers for `take`. Arrow makes the same of them, but imports pandas first, where there is one: 0.3 s."""
    return pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows.tobytes())])


def common_type(kinds: Sequence[Any]) -> Any:
    """The narrowest Arrow type that holds all of these; string for those that do not mix."""
    try:
        schemas = [pa.schema([("column", kind)]) for kind in kinds]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return pa.string()


def unify(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """One schema that holds the columns of all: those of the first, then what the others have more.

    A column of whole numbers in one and of floats in another is of floats; of otherwise different types, of strings,
    in which lists of texts are JSON; of nulls alone in one, of whatever it is in the others.

    Raises:
        ValueError: columns of one name that cannot be read as one type.
    """
    fields: dict[str, Any] = {}
    for field in (field for schema in schemas for field in schema):
        known = fields.setdefault(field.name, field)
        try:
            common = common_type([known.type, field.type])
            for kind in (known.type, field.type):
                _cast(pa.nulls(0, kind), common)
        except pa.ArrowException:
            raise ValueError(f"column {field.name!r} is {known.type} in one part and {field.type} in another") from None
        fields[field.name] = pa.field(field.name, common)
    return pa.schema(list(fields.values()))


def check_rows(rows: Rows, count: int) -> Ints:
    """Return row numbers as an int64 array (n,).

    Raises:
        IndexError: one is not in 0 … count - 1, or they are not a flat list of whole numbers.
    """
    array = np.asarray(rows)
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise IndexError(f"rows must be a flat list of whole numbers, got {array.dtype} of shape {array.shape}")
    if array.min() < 0 or array.max() >= count:
        raise IndexError(f"rows {array.min()} … {array.max()} asked for, of 0 … {count - 1}")
    return array.astype(np.int64)


def group_rows(rows: Ints, starts: Ints) -> tuple[Ints, list[tuple[int, Ints]]]:
    """Group row numbers by the part that they are in.

    Args:
        rows: int64 (n,), within the parts.
        starts: the first row of each part, and the end of the last.

    Returns:
        Where each row is in the groups put end to end; and of each part that has some, its number and the rows, counted
        from its start.
    """
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    bounds = np.searchsorted(ordered, starts)
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    parts = np.flatnonzero(np.diff(bounds)).tolist()
    return places, [(part, ordered[bounds[part] : bounds[part + 1]] - starts[part]) for part in parts]


def check_batch(batch: pa.RecordBatch, required: pa.Schema, schema: pa.Schema | None) -> None:
    """Check a batch against the columns that its table requires and the schema of the batches before it.

    Raises:
        ValueError: a required column is missing, of another type or has nulls; a column is dictionary-encoded (the
            file format holds one dictionary for all batches); or the schemas differ. The message says where.
    """
    for field in required:
        if field.name not in batch.schema.names:
            raise ValueError(f"column {field.name!r} is missing; there are {batch.schema.names}")
        column = batch.column(field.name)
        if column.type != field.type:
            raise ValueError(f"column {field.name!r} is {column.type}, not {field.type}")
        if column.null_count:
            raise ValueError(f"column {field.name!r} has {column.null_count} nulls")
    if schema is None:
        for field in batch.schema:
            if pa.types.is_dictionary(field.type):
                raise ValueError(f"column {field.name!r} is dictionary-encoded; cast it to {field.type.value_type}")
    elif not batch.schema.equals(schema):
        before, now = ([str(field) for field in each] for each in (schema, batch.schema))
        difference = [f"- {f}" for f in before if f not in now] + [f"+ {f}" for f in now if f not in before]
        where = ", ".join(difference) or "the columns are in another order"
        raise ValueError(f"schema differs from the batches before it: {where}")


def order_by_id(table: MappedTable) -> Ints:
    """Return the rows sorted by id (code point order), int64 (n,)."""
    return pc.sort_indices(table.column("id")).to_numpy().astype(np.int64)


def first_out_of_order(table: MappedTable, order: Ints) -> str | None:
    """Return the first id along `order` that is not greater than the one before it, None if all are.

    None proves that the ids are unique and, where `order` has a number for every row, that it is a permutation.
    """
    for start in range(0, len(order), BATCH_ROWS):
        ids = table.take(order[start : start + BATCH_ROWS + 1], ["id"]).column("id")
        later = ids.slice(1)
        wrong = pc.index(pc.less_equal(later, ids.slice(0, len(later))), True).as_py()
        if wrong >= 0:
            return str(later[wrong].as_py())
    return None
