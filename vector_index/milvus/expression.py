"""A filter -> an expression of Milvus.

Negations are pushed down to the single conditions, each of which says what it is of a row without a value: how Milvus
and Milvus Lite evaluate `not` of null is nothing to rely on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa

from vector_index.errors import BadFilter
from vector_index.milvus.columns import ROW, Field

_COMPARE: Final = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_OPPOSITE: Final = {"$gt": "$lte", "$gte": "$lt", "$lt": "$gte", "$lte": "$gt"}
_ALL: Final = f"{ROW} >= 0"
_NONE: Final = f"{ROW} < 0"
_INT64: Final = 2**63 - 1


def expression(value: dict[str, Any], fields: Mapping[str, Field]) -> str:
    """Translate the value of a `Filter` that has been checked against these columns.

    Raises:
        BadFilter: a condition that Milvus has nothing for: $gt, $gte, $lt, $lte on a column of lists.
    """
    return _all_of(value, fields, False)


def literal(value: str) -> str:
    """A text as it stands in an expression."""
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r")):
        value = value.replace(plain, escaped)
    return f'"{value}"'


def _all_of(value: dict[str, Any], fields: Mapping[str, Field], negated: bool) -> str:
    return _joined("or" if negated else "and", (_one(name, each, fields, negated) for name, each in value.items()))


def _one(name: str, wanted: Any, fields: Mapping[str, Field], negated: bool) -> str:
    if name in ("$and", "$or"):
        both = (name == "$and") != negated
        return _joined("and" if both else "or", (_all_of(each, fields, negated) for each in wanted))
    if name == "$not":
        return _all_of(wanted, fields, not negated)
    return _conditions(name, wanted if isinstance(wanted, dict) else {"$eq": wanted}, fields[name], negated)


def _conditions(name: str, conditions: dict[str, Any], field: Field, negated: bool) -> str:
    parts = (_condition(name, operator, value, field, negated) for operator, value in conditions.items())
    return _joined("or" if negated else "and", parts)


def _condition(name: str, operator: str, value: Any, field: Field, negated: bool) -> str:
    if operator == "$not":
        return _conditions(name, value, field, not negated)
    if operator in ("$ne", "$nin"):
        return _condition(name, "$eq" if operator == "$ne" else "$in", value, field, not negated)
    if operator == "$exists":
        return _exists(field, value != negated)
    if operator in _COMPARE:
        if field.is_list:
            raise BadFilter(f"{name}: {operator} on a column of lists cannot be asked of this store; $eq and $in can")
        return _compared(field, operator, value, negated)
    held = _held(field, value if operator == "$in" else [value])
    if held is None:
        return _ALL if negated else _NONE
    return f"({field.name} is null or not ({held}))" if negated else held


def _exists(field: Field, wanted: bool) -> str:
    if field.name is None:
        return _NONE if wanted else _ALL
    if field.is_list:
        if wanted:
            return f"({field.name} is not null and array_length({field.name}) > 0)"
        return f"({field.name} is null or array_length({field.name}) == 0)"
    return f"{field.name} is not null" if wanted else f"{field.name} is null"


def _held(field: Field, values: Iterable[Any]) -> str | None:
    """That a row has one of these values; None where none can be in the column."""
    written = [text for value in values if (text := _written(value, field.kind)) is not None]
    if field.name is None or not written:
        return None
    if field.is_list:
        return f"array_contains_any({field.name}, [{', '.join(written)}])"
    if len(written) == 1:
        return f"{field.name} == {written[0]}"
    return f"{field.name} in [{', '.join(written)}]"


def _written(value: Any, kind: Any) -> str | None:
    """A value as a column of this type would have it; None for one that the column cannot have."""
    if isinstance(value, str):
        return literal(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if pa.types.is_integer(kind):
        return str(int(value)) if value == int(value) and -_INT64 <= value <= _INT64 else None
    with np.errstate(over="ignore"):
        number = float(np.float32(value)) if pa.types.is_float32(kind) else float(value)
    return repr(number) if math.isfinite(number) else None


def _compared(field: Field, operator: str, value: Any, negated: bool) -> str:
    if field.name is None:
        return _ALL if negated else _NONE
    operator = _OPPOSITE[operator] if negated else operator
    if isinstance(value, str):
        bound = literal(value)
    elif not pa.types.is_integer(field.kind):
        bound = repr(float(value))
    else:
        if value != (whole := math.floor(value)):  # above 2.5 is above 2, below 2.5 is 2 or below
            operator = "$gt" if operator in ("$gt", "$gte") else "$lte"
        bound = str(max(-_INT64, min(_INT64, whole)))
        if abs(whole) > _INT64:
            above = operator in ("$gt", "$gte")
            operator = ("$gt" if above else "$lte") if whole > 0 else ("$gte" if above else "$lt")
    compared = f"{field.name} {_COMPARE[operator]} {bound}"
    return f"({field.name} is null or {compared})" if negated else compared


def _joined(how: str, parts: Iterable[str]) -> str:
    found = list(parts)
    return found[0] if len(found) == 1 else f"({f' {how} '.join(found)})"
