from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vector_index import tables

SCHEMA = pa.schema([("id", pa.string()), ("n", pa.int64()), ("tags", pa.list_(pa.string()))])
COUNT = 50


def write(path: Path, sizes: list[int], batch_rows: int) -> pa.Table:
    total = sum(sizes)
    columns = {
        "id": [f"é{i}" for i in range(total)],
        "n": list(range(total)),
        "tags": [["a"] * (i % 3) for i in range(total)],
    }
    table = pa.table(columns, schema=SCHEMA)
    writer = tables.TableWriter(path, SCHEMA, batch_rows)
    start = 0
    for size in sizes:
        for batch in table.slice(start, size).to_batches() or [pa.RecordBatch.from_pylist([], schema=SCHEMA)]:
            writer.append(batch)
        start += size
    writer.close()
    assert writer.rows == total
    return table


@pytest.mark.parametrize("sizes", [[], [0], [3], [7, 7, 7], [25], [1] * 20, [20, 0, 1]])
def test_rows_are_gathered_into_full_batches(tmp_path: Path, sizes: list[int]) -> None:
    table = write(tmp_path / "t.arrow", sizes, batch_rows=10)
    with pa.ipc.open_file(str(tmp_path / "t.arrow")) as reader:
        assert reader.read_all().equals(table)
        rows = [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]
    assert all(n == 10 for n in rows[:-1])
    assert all(0 < n <= 10 for n in rows[-1:])


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> tables.MappedTable:
    path = tmp_path_factory.mktemp("tables") / "t.arrow"
    write(path, [COUNT], batch_rows=7)
    return tables.MappedTable(path)


@given(rows=st.lists(st.integers(0, COUNT - 1)), columns=st.sampled_from([None, ["n"], ["tags", "id"]]))
def test_take_is_table_take(mapped: tables.MappedTable, rows: list[int], columns: list[str] | None) -> None:
    table = pa.Table.from_batches(mapped.batches)
    expected = (table if columns is None else table.select(columns)).take(pa.array(rows, pa.int64()))
    assert mapped.take(rows, columns).equals(expected)
    assert mapped.take(np.array(rows, np.int32), columns).equals(expected)


@pytest.mark.parametrize("rows", [[-1], [COUNT], [0, COUNT], [[0]], [0.5]])
def test_take_out_of_range(mapped: tables.MappedTable, rows: list[int]) -> None:
    with pytest.raises(IndexError):
        mapped.take(rows)


def test_take_unknown_column(mapped: tables.MappedTable) -> None:
    with pytest.raises(KeyError, match="nothing"):
        mapped.take([0], ["nothing"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["a"]}, "'uri' is missing"),
        ({"id": [1], "uri": ["u"]}, "'id' is int64, not string"),
        ({"id": pa.array([None], pa.string()), "uri": ["u"]}, "'id' has 1 nulls"),
        ({"id": ["a"], "uri": ["u"], "kind": pa.array(["x"]).dictionary_encode()}, "'kind' is dictionary-encoded"),
    ],
)
def test_batches_that_are_refused(columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tables.check_batch(pa.record_batch(columns), tables.IMAGE_SCHEMA, None)


def test_a_schema_that_differs_is_named() -> None:
    first = pa.record_batch({"id": ["a"], "uri": ["u"], "width": [1]})
    second = pa.record_batch({"id": ["a"], "uri": ["u"], "width": ["1"]})
    with pytest.raises(ValueError, match=r"differs.*width: int64.*width: string"):
        tables.check_batch(second, tables.IMAGE_SCHEMA, first.schema)


@pytest.mark.parametrize(
    ("first", "second", "common"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.int64(), pa.float32(), pa.float64()),
        (pa.bool_(), pa.string(), pa.string()),
        (pa.null(), pa.int64(), pa.int64()),
        (pa.string(), pa.null(), pa.string()),
        (pa.null(), pa.list_(pa.string()), pa.list_(pa.string())),
        (pa.list_(pa.string()), pa.int64(), pa.string()),
    ],
)
def test_columns_of_two_types_are_read_as_one(first: pa.DataType, second: pa.DataType, common: pa.DataType) -> None:
    schemas = [pa.schema([("a", pa.string()), ("b", first)]), pa.schema([("b", second), ("c", pa.bool_())])]
    unified = tables.unify(schemas)
    assert (unified.names, unified.field("b").type) == (["a", "b", "c"], common)


def test_whole_numbers_of_any_size_are_read_as_floats(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.string()), ("n", pa.int64())])
    writer = tables.TableWriter(tmp_path / "t.arrow", schema)
    writer.append(pa.record_batch({"id": ["a", "b"], "n": [2**60 + 1, None]}, schema))
    writer.close()
    table = tables.MappedTable(tmp_path / "t.arrow")
    table.schema = tables.unify([schema, pa.schema([("n", pa.float64())])])
    assert table.column("n").to_pylist() == table.take([0, 1])["n"].to_pylist() == [2.0**60, None]


def test_lists_among_texts_are_read_as_json(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.string()), ("tags", pa.list_(pa.string()))])
    writer = tables.TableWriter(tmp_path / "t.arrow", schema)
    writer.append(pa.record_batch({"id": ["a", "b", "c"], "tags": [['x"', "雨"], None, []]}, schema))
    writer.close()
    table = tables.MappedTable(tmp_path / "t.arrow")
    table.schema = tables.unify([schema, pa.schema([("tags", pa.string())])])
    assert (
        table.column("tags").to_pylist() == table.take([0, 1, 2])["tags"].to_pylist() == ['["x\\"", "雨"]', None, "[]"]
    )
