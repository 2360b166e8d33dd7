"""Where snapshots lie in Milvus: an alias names the live one."""

from __future__ import annotations

import contextlib
import re
from typing import Any, Final

from vector_index import snapshot as local
from vector_index.errors import IndexNotFound, SnapshotCorrupt, StoreRefused, StoreUnavailable
from vector_index.milvus.address import Address
from vector_index.milvus.columns import ROW
from vector_index.milvus.connection import Call, Connection, NotThere
from vector_index.milvus.loading import AUTO, INDEX_TYPES, Loading, Progress
from vector_index.milvus.snapshot import ABOUT, MilvusSnapshot, read_record

PATIENCE: Final = 60  # seconds until a collection is ready to be searched that was so before
_SNAPSHOT: Final = re.compile(r"(\d{8}T\d{6})_(\d+Z)_([0-9a-f]+)")


class MilvusStore:
    """A Milvus cluster, or a file of Milvus Lite. Making one makes no call.

    A snapshot is a collection `<NAME>_<snapshot>` of its pictures, one of its texts, `…_texts`, and `…_about`, written
    last. They are written once and never changed; then the alias `<NAME>` is put on the first, which is atomic. So a
    reader sees the old snapshot or the new one whole, and whoever dies while publishing leaves the old one live.
    """

    searchers = 8  # a thread waits for the network most of the time

    def __init__(self, address: str, *, token: str | None = None, timeout: float = 5.0) -> None:
        """`timeout` is that of one call, in seconds; `token` is `user:password` or an API key.

        Raises:
            ValueError: the address is none.
        """
        self.address = Address.parse(address)
        self._connection = Connection(self.address, token, timeout)
        self._connection.revive = self._revive

    def __repr__(self) -> str:
        return f"MilvusStore({str(self.address)!r})"

    @property
    def down_for(self) -> float:
        """Seconds for which it has not answered; 0 while it does."""
        return self._connection.down_for

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def current(self) -> str | None:
        """Return the name of the live snapshot, None where nothing has been published."""
        live = self._live(self._connection.call)
        return None if live is None else self._snapshot(live)

    def open(self) -> MilvusSnapshot:
        """Open the live snapshot.

        Raises:
            IndexNotFound: nothing has been published here.
            SnapshotCorrupt: what is there is no snapshot.
            StoreUnavailable: it does not answer.
        """
        live = self._live(self._connection.call)
        if live is None:
            raise IndexNotFound(f"{self.address}: there is no index here (no alias {self.address.name})")
        try:
            self._ready(self._connection.call, f"{live}_{ABOUT}")
            snapshot = MilvusSnapshot(self._connection, live, read_record(self._connection, live))
        except NotThere:
            raise IndexNotFound(f"{self.address}: {live} is no index of crossmodal's") from None
        for collection in snapshot.collections:
            try:
                self._ready(self._connection.call, collection.name)
            except NotThere:
                raise SnapshotCorrupt(f"{collection.name} is not there") from None
        return snapshot

    def names(self) -> list[str]:
        """The names of the snapshots that are there whole, oldest first."""
        there = set(self._connection.call("list_collections"))
        return sorted(self._snapshot(name) for name in self._bases(there) if f"{name}_{ABOUT}" in there)

    def publish(
        self,
        snapshot: local.Snapshot,
        *,
        index_type: str = AUTO,
        thumbnails: bool = True,
        progress: Progress | None = None,
    ) -> str:
        """Load a snapshot of an index directory and make it the live one; one that is there is not loaded again.

        Args:
            snapshot: with vectors as its FAISS index stores them.
            index_type: "auto" (FLAT, above 50,000 rows HNSW), FLAT, HNSW or IVF_FLAT.
            thumbnails: keep the small pictures too.
            progress: called with rows done, of how many.

        Raises:
            ValueError: another index type, or values that Milvus cannot hold.
            StoreUnavailable, StoreRefused: the old snapshot stays live.
        """
        if index_type not in INDEX_TYPES:
            raise ValueError(f"index type {index_type!r} is not one of {', '.join(INDEX_TYPES)}")
        base = f"{self.address.name}_{snapshot.name.replace('.', '_').replace('-', '_')}"
        if snapshot.name not in self.names():
            self._drop(base)
            try:
                Loading(self._connection, base, index_type, thumbnails, progress).run(snapshot)
            except Exception:
                with contextlib.suppress(StoreUnavailable, StoreRefused):
                    self._drop(base)
                raise
        self._make_live(base)
        return snapshot.name

    def collect(self, keep: int) -> list[str]:
        """Delete all snapshots but the live one and the newest `keep`, and what broken publications before them left.

        Returns:
            The names of what was deleted.

        Raises:
            ValueError: keep is below 1.
            IndexNotFound: nothing has been published here.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        live = self._live(self._connection.call)
        if live is None:
            raise IndexNotFound(f"{self.address}: there is no index here (no alias {self.address.name})")
        whole = self.names()
        there = sorted(self._bases(set(self._connection.call("list_collections"))))
        broken = [base for base in there if base < live and self._snapshot(base) not in whole]
        gone = [base for base in there if base != live and self._snapshot(base) in whole[:-keep]]
        for base in [*broken, *gone]:
            self._drop(base)
        return [self._snapshot(base) for base in gone]

    def _live(self, call: Call) -> str | None:
        """The collection that the alias names."""
        try:
            return str(call("describe_alias", self.address.name)["collection_name"])
        except NotThere:
            return None

    def _make_live(self, base: str) -> None:
        live = self._live(self._connection.call)
        if live != base:
            method = "create_alias" if live is None else "alter_alias"
            self._connection.call(method, collection_name=base, alias=self.address.name)

    def _drop(self, base: str) -> None:
        """The record first: what is half deleted no longer looks like a snapshot."""
        for name in (f"{base}_{ABOUT}", f"{base}_texts", base):
            with contextlib.suppress(NotThere):
                self._connection.call("drop_collection", name, timeout=PATIENCE)

    def _bases(self, there: set[str]) -> list[str]:
        prefix = f"{self.address.name}_"
        return [n for n in there if n.startswith(prefix) and _SNAPSHOT.fullmatch(n[len(prefix) :])]

    def _snapshot(self, base: str) -> str:
        """The name of the snapshot that a collection is of; the collection's own where it is of none."""
        found = _SNAPSHOT.fullmatch(base.removeprefix(f"{self.address.name}_"))
        return f"{found[1]}.{found[2]}-{found[3]}" if found else base

    def _ready(self, call: Call, collection: str) -> None:
        """Milvus forgets nothing when it starts again; Milvus Lite has to be told what is to be searched."""
        call("load_collection", collection, timeout=PATIENCE)

    def _revive(self, call: Call) -> None:
        """What must go well before calls are let through again."""
        live = self._live(call)
        there: list[Any] = call("list_collections") if live is not None else []
        for name in (live, f"{live}_texts", f"{live}_{ABOUT}"):
            if name in there:
                self._ready(call, str(name))
                call("query", name, filter=f"{ROW} == 0", output_fields=[ROW])
