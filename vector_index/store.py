"""What the service asks of an index, wherever it lies: an index directory (`Snapshot`, in FAISS) or a Milvus cluster.

The classes here are interfaces. `tests/vector_index/test_store.py` holds both implementations to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt
import pyarrow as pa

from vector_index import parameters, tables
from vector_index.filters import Filter
from vector_index.kinds import Floats, Ints
from vector_index.manifest import Manifest


class Collection(Protocol):
    """The pictures, or the texts, of a snapshot, as `vector_index.Collection` describes them; safe to use from several
    threads. Any call may raise StoreUnavailable or StoreRefused."""

    dim: int
    schema: pa.Schema

    def __len__(self) -> int: ...

    @property
    def exhaustive(self) -> bool:
        """Whether `exact` can be had."""

    def parse_filter(self, value: Any) -> Filter: ...

    def check_parameters(self, asked: parameters.Parameters) -> None: ...

    def search(
        self,
        vectors: npt.NDArray[Any],
        k: int,
        *,
        exact: bool = False,
        where: Filter | None = None,
        params: parameters.Parameters | None = None,
        modality: str | None = None,
    ) -> tuple[Floats, Ints]: ...

    def count(self, where: Filter | None = None) -> int: ...

    def take(self, rows: tables.Rows, columns: list[str] | None = None) -> pa.Table: ...

    def vectors(self, rows: tables.Rows) -> Floats: ...

    def row_of(self, id: str) -> int: ...

    def value_counts(self, column: str, where: Filter | None = None, most: int = 20) -> list[tuple[Any, int]]: ...


class Snapshot(Protocol):
    """One immutable state of an index."""

    name: str
    manifest: Manifest

    @property
    def images(self) -> Collection: ...

    @property
    def texts(self) -> Collection: ...

    @property
    def has_thumbnails(self) -> bool: ...

    @property
    def index_files(self) -> Sequence[Path]:
        """Files that searches read through a map; none where the index lies elsewhere."""

    def thumbnail(self, row: int) -> bytes | None: ...

    def check_files(self) -> list[str]:
        """What is not as it was published, before it serves."""

    def verify(self) -> list[str]:
        """Read everything and return what is wrong."""


class Store(Protocol):
    """Where snapshots lie, one of them live."""

    searchers: int
    """Threads that may well search at a time."""

    @property
    def down_for(self) -> float:
        """Seconds for which it has not answered; 0 while it does."""

    def current(self) -> str | None: ...

    def open(self) -> Snapshot: ...

    def close(self) -> None: ...


def open_store(index: Path | None, address: str | None, token: str | None = None, timeout: float = 5.0) -> Store:
    """An index directory, or the store at an address (docs/scaling.md), of which no call takes longer than `timeout`.

    Raises:
        ValueError: neither or both are given, or the address is none.
    """
    if (index is None) == (address is None):
        raise ValueError("give an index directory or a store (--store, CROSSMODAL_STORE), one of them")
    if address is not None:
        from vector_index.milvus import MilvusStore

        return MilvusStore(address, token=token, timeout=timeout)
    from vector_index.directory import IndexDirectory

    assert index is not None
    return IndexDirectory(index)
