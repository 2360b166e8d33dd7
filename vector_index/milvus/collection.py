"""The pictures, or the texts, of a snapshot in Milvus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vector_index import parameters, tables
from vector_index.errors import BeyondStore, SnapshotCorrupt, UnknownId
from vector_index.filters import Filter
from vector_index.kinds import Floats, Ints
from vector_index.lru_cache import LRUCache
from vector_index.manifest import IndexStamp
from vector_index.milvus.columns import ROW, VECTOR, Field, fields_of, table_of
from vector_index.milvus.connection import Connection
from vector_index.milvus.expression import expression, literal
from vector_index.segment import check_vectors

METRIC: Final = "IP"
MOST_FOUND: Final = 16_384  # rows of one query, Milvus' limit
_MOST_COUNTED: Final = 100_000  # rows that facets are counted among
_AT_ONCE: Final = 1_000  # rows fetched in one call
_REMEMBERED: Final = 64  # counts of values


class MilvusCollection:
    """As `vector_index.Collection`; rows are the primary keys, from 0. It may be empty, and not be there then."""

    def __init__(
        self, connection: Connection, name: str, schema: pa.Schema, dim: int, rows: int, index: IndexStamp
    ) -> None:
        """Makes no call. `name` is the collection's own, for what an alias names may change."""
        self.name, self.schema, self.dim = name, schema, dim
        self.fields: dict[str, Field] = fields_of(schema)
        self._connection, self._rows, self.index = connection, rows, index
        self._limits = limits_of(index)
        self._counted: LRUCache[list[tuple[Any, int]]] = LRUCache(_REMEMBERED)

    def __len__(self) -> int:
        return self._rows

    @property
    def exhaustive(self) -> bool:
        """Whether every search is exact; an index of Milvus is not passed by."""
        return not self._limits

    def parse_filter(self, value: Any) -> Filter:
        """Check a filter as JSON has it. Raises: BadFilter, for what Milvus has no expression for too."""
        found = Filter.parse(value, self.schema)
        expression(found.value, self.fields)
        return found

    def check_parameters(self, asked: parameters.Parameters) -> None:
        """Check parameters for `search`. Raises: BadParameter."""
        parameters.check(asked, self._limits)

    def search(
        self,
        vectors: npt.NDArray[Any],
        k: int,
        *,
        exact: bool = False,
        where: Filter | None = None,
        params: parameters.Parameters | None = None,
        modality: str | None = None,
    ) -> tuple[Floats, Ints]:
        """Find the nearest rows, at most MOST_FOUND; `exact` changes nothing, see `exhaustive`."""
        self.check_parameters(params or {})
        queries = check_vectors(vectors, self.dim)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        k = min(k, MOST_FOUND, self._rows)
        if k == 0 or len(queries) == 0:
            return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        found = self._connection.call(
            "search",
            self.name,
            data=list(queries),
            anns_field=VECTOR,
            limit=k,
            filter="" if where is None else expression(where.value, self.fields),
            output_fields=[ROW],
            search_params={"metric_type": METRIC, "params": self._parameters(params or {}, k, modality)},
        )
        width = max(len(hits.ids) for hits in found)
        scores, rows = np.full((len(queries), width), -np.inf, np.float32), np.full((len(queries), width), -1, np.int64)
        for number, hits in enumerate(found):
            scores[number, : len(hits.ids)], rows[number, : len(hits.ids)] = hits.distances, hits.ids
        return scores, rows

    def count(self, where: Filter | None = None) -> int:
        """How many rows a filter keeps."""
        if where is None or self._rows == 0:
            return self._rows
        return self.counted(expression(where.value, self.fields))

    def counted(self, filter: str = "") -> int:
        """How many rows are there, as Milvus counts them now."""
        options: dict[str, Any] = {"output_fields": ["count(*)"], "consistency_level": "Strong"}
        found: int = self._connection.call("query", self.name, filter=filter, **options)[0]["count(*)"]
        return found

    def take(self, rows: tables.Rows, columns: list[str] | None = None) -> pa.Table:
        """Return the given rows in the order given, duplicates allowed, of all columns or those named."""
        names = self.schema.names if columns is None else columns
        schema = pa.schema([self.schema.field(name) for name in names])
        wanted = [field for name in names if (field := self.fields[name].name) is not None]
        return table_of(self.fetch(rows, wanted), schema, self.fields)

    def vectors(self, rows: tables.Rows) -> Floats:
        """Return the vectors of the given rows, float32 (n, dim)."""
        found = self.fetch(rows, [VECTOR])
        return np.array([row[VECTOR] for row in found], np.float32).reshape(len(found), self.dim)

    def fetch(self, rows: tables.Rows, fields: list[str]) -> list[dict[str, Any]]:
        """Return fields of the given rows, in the order given.

        Raises:
            IndexError: a row out of range.
            SnapshotCorrupt: one is not there.
        """
        wanted = tables.check_rows(rows, self._rows)
        if not fields:
            return [{} for _ in wanted]
        each = np.unique(wanted)
        found: dict[int, dict[str, Any]] = {}
        for start in range(0, len(each), _AT_ONCE):
            some = ", ".join(map(str, each[start : start + _AT_ONCE].tolist()))
            rows_of = self._connection.call("query", self.name, filter=f"{ROW} in [{some}]", output_fields=fields)
            found |= {row[ROW]: row for row in rows_of}
        try:
            return [found[row] for row in wanted.tolist()]
        except KeyError as error:
            raise SnapshotCorrupt(f"{self.name}: there is no row {error}") from None

    def row_of(self, id: str) -> int:
        """Return the row that has this id. Raises: UnknownId."""
        filter = f"{self.fields['id'].name} == {literal(id)}"
        found = self._connection.call("query", self.name, filter=filter, output_fields=[ROW]) if self._rows else []
        if not found:
            raise UnknownId(f"there is no id {id!r}")
        return int(found[0][ROW])

    def value_counts(self, column: str, where: Filter | None = None, most: int = 20) -> list[tuple[Any, int]]:
        """The commonest values of a column among the rows that a filter keeps, and how many rows have each.

        Milvus does not count values, so the column is fetched; remembered for what was asked for last.

        Raises:
            BeyondStore: the filter keeps too many rows for that.
        """
        key = column, where and where.key, most
        return self._counted.get(key, lambda: self._count_values(column, where, most))

    def _count_values(self, column: str, where: Filter | None, most: int) -> list[tuple[Any, int]]:
        kept = self.count(where)
        if kept > _MOST_COUNTED:
            raise BeyondStore(
                f"values are counted among at most {_MOST_COUNTED:,} rows of this store, and {kept:,} are kept: "
                "narrow the filter"
            )
        total: Counter[Any] = Counter()
        field = self.fields[column].name
        if kept and field is not None:
            for value in self._values(field, where):
                total.update(set(value) if isinstance(value, list) else () if value is None else (value,))
        return sorted(total.items(), key=lambda item: (-item[1], item[0]))[:most]

    def _values(self, field: str, where: Filter | None) -> Iterator[Any]:
        """A field of all rows that a filter keeps; page by page, for Milvus gives no more at a time."""
        kept = "" if where is None else f" and {expression(where.value, self.fields)}"
        for start in range(0, self._rows, MOST_FOUND):
            page = f"{ROW} >= {start} and {ROW} < {start + MOST_FOUND}{kept}"
            for row in self._connection.call("query", self.name, filter=page, output_fields=[field]):
                yield row[field]

    def _parameters(self, asked: parameters.Parameters, k: int, modality: str | None) -> dict[str, int]:
        defaults = self.index.parameters_for(modality)
        known = {name: defaults.get(name, most) for name, most in self._limits.items()}
        wanted = parameters.at_depth(known, asked, k, self._rows, self._limits.get("nprobe", 0))
        return {"ef" if name == "efSearch" else name: value for name, value in wanted.items()}


def limits_of(index: IndexStamp) -> dict[str, int]:
    """The search parameters of an index, each with the largest value allowed."""
    if index.kind == "HNSW":
        return {"efSearch": parameters.MOST_EF}
    return {"nprobe": index.parameters["nlist"]} if index.kind == "IVF_FLAT" else {}
