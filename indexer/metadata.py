"""Metadata of any shape -> typed Arrow columns, the same over the whole corpus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from corpus.records import SourceError, as_utf8

# What an index itself writes of every picture.
OWN: dict[str, Any] = {
    "id": pa.string(),
    "uri": pa.string(),
    "duplicate_uris": pa.list_(pa.string()),
    "width": pa.int32(),
    "height": pa.int32(),
    "sha256": pa.string(),
    "captions": pa.list_(pa.string()),
    "offset": pa.int64(),
    "length": pa.int64(),
}
# As numbers, the telephone number +4930123, the post code 01234 and a hash of 20 digits would be damaged.
_INT = re.compile(r"-?(0|[1-9][0-9]{0,17})")
# With a point or an exponent.
_FLOAT = re.compile(r"[+-]?((0|[1-9][0-9]*)?\.[0-9]+|(0|[1-9][0-9]*)(\.|(?=[eE])))([eE][+-]?[0-9]+)?")
_TYPES: dict[str, Any] = {
    "": pa.null(),
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "string": pa.string(),
    "texts": pa.list_(pa.string()),
}


class MetadataSchema:
    """Looks at every value once, then gives each column the narrowest type that holds them all.

    Strings that are all numbers or all true/false become that (a CSV has only strings); what is mixed becomes a
    string; lists of texts stay lists, without their nulls, where all values are such; other lists and objects become
    JSON; what never has a value has no type (null). A name that the index itself uses gets the prefix `meta_`.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}

    def see(self, metadata: dict[str, Any]) -> None:
        """Look at what a record says. Raises SourceError as `as_columns` does."""
        for name, value in as_columns(metadata).items():
            kind = _kind(value)
            known = self._kinds.get(name, "")
            self._kinds[name] = _wider(known, kind) if known and kind else known or kind

    def forget_empty(self) -> None:
        """Leave out names that never had a value: what they are is known better elsewhere, or not at all."""
        self._kinds = {name: kind for name, kind in self._kinds.items() if kind}

    @property
    def types(self) -> dict[str, Any]:
        """The Arrow type of each column."""
        return {name: _TYPES[kind] for name, kind in sorted(self._kinds.items())}

    def columns(self, rows: Iterable[dict[str, Any]]) -> dict[str, pa.Array[Any]]:
        rows = list(map(as_columns, rows))
        result = {}
        for name, kind in sorted(self._kinds.items()):
            values = [_convert(row.get(name), kind) for row in rows]
            result[name] = pa.array(values, _TYPES[kind])
        return result


def column_name(name: str) -> str:
    """The column that metadata of this name lie in."""
    return f"meta_{name}" if name in OWN else as_utf8(name)


def as_columns(metadata: dict[str, Any]) -> dict[str, Any]:
    """What a record says, by the columns that it lies in. Raises SourceError where two names mean one column."""
    named: dict[str, str] = {}
    for name in metadata:
        if (other := named.setdefault(column_name(name), name)) != name:
            raise SourceError(
                f"metadata {other!r} and {name!r} would both be the column {column_name(name)!r}: rename one of them"
            )
    return {column: metadata[name] for column, name in named.items()}


def converted(value: Any, like: Any) -> Any:
    """A value as the corpus has it, in the type of one that the index has, if that can hold it."""
    own = _kind(value)
    if like is None or own == "":
        return _convert(value, "string" if isinstance(like, str) else own or "bool")  # an empty text is one among texts
    kind = "string" if isinstance(like, str) else _kind(like)
    return _convert(value, kind if _wider(own, kind) == kind else own)


def _kind(value: Any) -> str:
    if value is None or value == "" or value != value:  # NaN is how pandas says nothing
        return ""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if abs(value) < 2**63 else "string"
    if isinstance(value, float):
        return "float"
    if isinstance(value, str):
        if value.lower() in ("true", "false"):
            return "bool"
        if _INT.fullmatch(value):
            return "int"
        return "float" if _FLOAT.fullmatch(value) else "string"
    is_texts = isinstance(value, list) and all(isinstance(each, str | None) for each in value)
    return "texts" if is_texts else "string"


def _wider(a: str, b: str) -> str:
    if a == b:
        return a
    return "float" if {a, b} == {"int", "float"} else "string"


def _convert(value: Any, kind: str) -> Any:
    if value is None or value != value or kind == "" or (value == "" and kind != "string"):
        return None
    if isinstance(value, list) and _kind(value) == "texts":
        value = [as_utf8(each) for each in value if each is not None]
    if kind == "texts":
        return value
    if kind == "string":
        return as_utf8(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
    if kind == "bool":
        return value if isinstance(value, bool) else value.lower() == "true"
    return int(value) if kind == "int" else float(value)
