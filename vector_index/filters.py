"""Which rows a filter keeps: the operators that vector databases share, on a table's columns."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vector_index.errors import BadFilter
from vector_index.tables import MappedTable

Mask: TypeAlias = npt.NDArray[np.bool_]

MAX_DEPTH: Final = 8
MAX_CONDITIONS: Final = 100
MAX_VALUES: Final = 10_000  # of all $in and $nin of a filter
_COMPARE: Final[dict[str, Callable[..., Any]]] = {
    "$gt": pc.greater,
    "$gte": pc.greater_equal,
    "$lt": pc.less,
    "$lte": pc.less_equal,
}
_LARGEST: Final = sys.float_info.max  # JSON has whole numbers of any length
_OPERATORS: Final = ("$eq", "$ne", *_COMPARE, "$in", "$nin", "$exists", "$not")


@dataclass(frozen=True)
class Filter:
    """A checked filter on tables of one schema: `Filter.parse` makes one, `mask` applies it.

        {"licence": "CC0", "year": {"$gte": 1990, "$lt": 2000}}
        {"$or": [{"photographer": {"$in": ["Ada", "Grace"]}}, {"$not": {"year": {"$exists": true}}}]}

    Conditions side by side must all hold. A row without a value satisfies `$ne`, `$nin` and `$not`, nothing else but
    `{"$exists": false}`. A column of lists satisfies a condition if one of its values does; `$ne` and `$nin` if none
    is equal.
    """

    value: dict[str, Any]
    key: bytes

    @classmethod
    def parse(cls, value: Any, schema: pa.Schema) -> Filter:
        """Check a filter as JSON has it.

        Raises:
            BadFilter: an unknown column (the message lists those there are) or operator, a value that the column cannot
                have, or more depth, conditions or values than MAX_DEPTH, MAX_CONDITIONS, MAX_VALUES.
        """
        _Check(schema).all_of(value, 1)
        return cls(value, json.dumps(value, sort_keys=True).encode())

    def mask(self, table: MappedTable) -> Mask:
        """Which rows of a table it keeps, bool (rows,)."""
        return _all_of(self.value, table)


class _Check:
    """Walks a filter before any data is read."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._conditions = 0
        self._values = 0

    def all_of(self, value: Any, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise BadFilter(f"the filter is nested more than {MAX_DEPTH} deep")
        if not isinstance(value, dict) or not value:
            raise BadFilter(f"a filter is an object with a condition in it, not {_shown(value)}")
        for name, wanted in value.items():
            if name in ("$and", "$or"):
                if not isinstance(wanted, list) or not wanted:
                    raise BadFilter(f"{name} needs a list of filters, not {_shown(wanted)}")
                for each in wanted:
                    self.all_of(each, depth + 1)
            elif name == "$not":
                self.all_of(wanted, depth + 1)
            elif name.startswith("$"):
                raise BadFilter(f"unknown operator {name[:50]}: a filter has columns, $and, $or and $not")
            else:
                self.column(name, wanted, depth)

    def column(self, name: str, wanted: Any, depth: int) -> None:
        if name not in self._schema.names:
            raise BadFilter(f"there is no column {name[:100]!r}; there are {', '.join(self._schema.names)}")
        if not isinstance(wanted, dict):
            wanted = {"$eq": wanted}
        if depth > MAX_DEPTH:
            raise BadFilter(f"the filter is nested more than {MAX_DEPTH} deep")
        if not wanted:
            raise BadFilter(f"{name}: no condition; use {', '.join(_OPERATORS)}")
        for operator, value in wanted.items():
            self._conditions += 1
            if self._conditions > MAX_CONDITIONS:
                raise BadFilter(f"the filter has more than {MAX_CONDITIONS} conditions")
            if operator not in _OPERATORS:
                raise BadFilter(f"{name}: unknown operator {operator[:50]!r}; use {', '.join(_OPERATORS)}")
            if operator == "$not":
                if not isinstance(value, dict):
                    raise BadFilter(f"{name}: $not needs conditions, not {_shown(value)}")
                self.column(name, value, depth + 1)
            elif operator == "$exists":
                if not isinstance(value, bool):
                    raise BadFilter(f"{name}: $exists is true or false, not {_shown(value)}")
            elif operator in ("$in", "$nin"):
                if not isinstance(value, list):
                    raise BadFilter(f"{name}: {operator} needs a list, not {_shown(value)}")
                self._values += len(value)
                if self._values > MAX_VALUES:
                    raise BadFilter(f"the filter has more than {MAX_VALUES:,} values in its $in and $nin")
                for each in value:
                    self.value(name, each)
            else:
                self.value(name, value)
                if operator in _COMPARE and isinstance(value, bool):
                    raise BadFilter(f"{name}: {operator} compares numbers or texts, not {_shown(value)}")

    def value(self, name: str, value: Any) -> None:
        kind = _item_type(self._schema.field(name).type)
        if value is None:
            raise BadFilter(f'{name}: null is no value; use {{"$exists": false}}')
        if pa.types.is_boolean(kind):
            fits, what = isinstance(value, bool), "true or false"
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
            fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
            what = "a number"
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            fits, what = isinstance(value, str), "a text"
        else:
            raise BadFilter(f"{name}: a column of {kind} cannot be filtered but by $exists")
        if not fits:
            raise BadFilter(f"{name}: the column has {kind}, so {what} is expected, not {_shown(value)}")


def _all_of(value: dict[str, Any], table: MappedTable) -> Mask:
    return reduce(np.logical_and, (_one(name, wanted, table) for name, wanted in value.items()))


def _one(name: str, wanted: Any, table: MappedTable) -> Mask:
    if name == "$and":
        return reduce(np.logical_and, (_all_of(each, table) for each in wanted))
    if name == "$or":
        return reduce(np.logical_or, (_all_of(each, table) for each in wanted))
    if name == "$not":
        return ~_all_of(wanted, table)
    return _conditions(name, wanted if isinstance(wanted, dict) else {"$eq": wanted}, table)


def _conditions(name: str, conditions: dict[str, Any], table: MappedTable) -> Mask:
    masks = (_condition(name, operator, value, table) for operator, value in conditions.items())
    return reduce(np.logical_and, masks)


def _condition(name: str, operator: str, value: Any, table: MappedTable) -> Mask:
    if operator == "$not":
        return ~_conditions(name, value, table)
    if operator == "$ne":
        return ~_condition(name, "$eq", value, table)
    if operator == "$nin":
        return ~_condition(name, "$in", value, table)
    if not table.batches:
        return np.empty(0, np.bool_)
    kind = table.schema.field(name).type
    return np.concatenate([_holds(chunk, kind, operator, value) for chunk in table.column(name).chunks])


def _holds(column: Any, kind: pa.DataType, operator: str, value: Any) -> Mask:
    """Whether a condition holds, of one batch's column."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        if operator == "$exists":
            some: Mask = pc.fill_null(pc.list_value_length(column), 0).to_numpy() > 0
            return some if value else ~some
        held = np.zeros(len(column), np.bool_)
        held[pc.list_parent_indices(column).to_numpy()[_values_hold(pc.list_flatten(column), operator, value)]] = True
        return held
    if operator == "$exists":
        return _mask(column.is_valid() if value else column.is_null())
    return _values_hold(column, operator, value)


def _values_hold(values: Any, operator: str, value: Any) -> Mask:
    kind = values.type
    if operator == "$in":
        return _mask(pc.is_in(values, value_set=_array(value, kind)))
    if operator == "$eq":
        return _mask(pc.is_in(values, value_set=_array([value], kind)))
    if pa.types.is_integer(kind):
        return _whole_numbers_hold(values, operator, value)
    return _mask(_COMPARE[operator](values, value if isinstance(value, str) else pa.scalar(float(value))))


def _whole_numbers_hold(values: Any, operator: str, value: float) -> Mask:
    """A comparison of whole numbers with any number: with a fraction as Arrow has it, large ones would not compare."""
    bound = math.floor(value) if operator in ("$gt", "$lte") else math.ceil(value)
    if bound in _range(values.type):
        return _mask(_COMPARE[operator](values, pa.scalar(bound, values.type)))
    every = (bound > 0) == (operator in ("$lt", "$lte"))
    return _mask(values.is_valid()) if every else np.zeros(len(values), np.bool_)


def _range(kind: pa.DataType) -> range:
    """What whole numbers of a type can be."""
    bits, signed = kind.bit_width, pa.types.is_signed_integer(kind)
    return range(-(2 ** (bits - 1)) if signed else 0, 2 ** (bits - signed))


def _array(values: list[Any], kind: pa.DataType) -> Any:
    """Values as the column has them; a number that the column cannot have is equal to none of it."""
    if pa.types.is_integer(kind):
        return pa.array([int(value) for value in values if value == int(value) and int(value) in _range(kind)], kind)
    if pa.types.is_floating(kind):
        numbers = [float(value) for value in values]
        zeros = [0.0, -0.0] if 0.0 in numbers else []  # equal, but not the same to Arrow
        return pa.array(numbers + zeros, pa.float64()).cast(kind, safe=False)
    return pa.array(values, kind)


def _mask(found: Any) -> Mask:
    mask: Mask = pc.fill_null(found, False).to_numpy(zero_copy_only=False)
    return mask


def _item_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:60]
