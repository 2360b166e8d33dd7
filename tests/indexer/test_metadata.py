import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.records import SourceError
from indexer.metadata import MetadataSchema, converted


def columns(rows: list[dict[str, Any]]) -> dict[str, pa.Array]:
    schema = MetadataSchema()
    for row in rows:
        schema.see(row)
    return schema.columns(rows)


def column(values: list[Any]) -> pa.Array:
    (only,) = columns([{"x": value} for value in values]).values()
    return only


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["1", "-2", ""], pa.int64(), [1, -2, None]),
        ([1, None, 2.5], pa.float64(), [1.0, None, 2.5]),
        (["1", "2.5", "1e3", ".5", "3."], pa.float64(), [1.0, 2.5, 1000.0, 0.5, 3.0]),
        (["true", "False", True], pa.bool_(), [True, False, True]),
        (["1", "x", True], pa.string(), ["1", "x", "true"]),
        ([math.nan, 1, math.nan], pa.int64(), [None, 1, None]),
        (["a", math.nan], pa.string(), ["a", None]),
        (["+4930123"], pa.string(), ["+4930123"]),
        (["01234", "5"], pa.string(), ["01234", "5"]),
        (["12345678901234567890"], pa.string(), ["12345678901234567890"]),
        ([2**70], pa.string(), [str(2**70)]),
        ([{"雨": [1]}, "a"], pa.string(), ['{"雨": [1]}', "a"]),
        (["\ud800"], pa.string(), ["?"]),
        ([["b", None, "\ud800"], [], None, "", [None]], pa.list_(pa.string()), [["b", "?"], [], None, None, []]),
        ([["b", "雨"], "c"], pa.string(), ['["b", "雨"]', "c"]),
        ([["b"], [1], []], pa.string(), ['["b"]', "[1]", "[]"]),
        ([["b"], [["c"]]], pa.string(), ['["b"]', '[["c"]]']),
        ([["b"], {"c": 1}], pa.string(), ['["b"]', '{"c": 1}']),
        ([None, ""], pa.null(), [None, None]),
    ],
)
def test_one_type_a_column(values: list[Any], kind: pa.DataType, expected: list[Any]) -> None:
    result = column(values)
    assert result.type == kind
    assert result.to_pylist() == expected


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())
LISTS = st.lists(st.one_of(st.none(), st.text()))
VALUES = st.one_of(SCALARS, LISTS, st.lists(SCALARS), st.dictionaries(st.text(), SCALARS))


@settings(max_examples=40)
@given(st.one_of(st.lists(st.one_of(st.none(), LISTS)), st.lists(VALUES)))
def test_lists_of_texts_are_lists_and_what_is_said_again_is_no_change(values: list[Any]) -> None:
    some = [value for value in values if value not in (None, "")]
    are_lists = all(isinstance(value, list) and all(isinstance(each, str | None) for each in value) for value in some)
    built = column([*values, None])
    assert pa.types.is_list(built.type) == bool(some and are_lists)
    stored = built.to_pylist()[:-1]
    assert [converted(value, like) for value, like in zip(values, stored, strict=True)] == stored


def test_names_of_our_own_are_kept_apart() -> None:
    schema = MetadataSchema()
    schema.see({"id": 1, "uri": "u", "colour": "red", "\ud800": 1})
    assert list(schema.columns([{}])) == ["?", "colour", "meta_id", "meta_uri"]


@pytest.mark.parametrize("names", [("width", "meta_width"), ("a\ud800", "a?")])
def test_two_names_of_one_column_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(SourceError, match="would both be the column"):
        MetadataSchema().see(dict.fromkeys(names, 1))


def test_a_column_keeps_what_records_call_by_different_names() -> None:
    (both,) = columns([{"width": 1}, {"meta_width": 2}]).values()
    assert both.to_pylist() == [1, 2]
