"""What an index has already: content and addresses -> rows, in 16 bytes for each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from vector_index import Collection

_CHUNK = 65_536


class Known:
    """Rows of pictures by the SHA-256 of their bytes, and by the addresses they were found at."""

    def __init__(self, images: Collection) -> None:
        self._images = images
        digests: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
        places: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
        self._addresses = [name for name in images.schema.names if name in ("uri", "duplicate_uris")]
        live = images.live()
        for start in range(0, len(live), _CHUNK):
            rows = live[start : start + _CHUNK]
            columns = [name for name in images.schema.names if name in ("sha256", *self._addresses)]
            table = images.take(rows, columns).to_pydict()
            if "sha256" in table:
                digests.append((_keys(table["sha256"]), rows))
            places.append((_keys(table["uri"]), rows))
            for row, more in zip(rows, table.get("duplicate_uris", ()), strict=False):
                if more:
                    places.append((_keys(more), np.full(len(more), row)))
        self._digests, self._places = _Table(digests), _Table(places)

    def with_content(self, sha256: str) -> int | None:
        """The row of the picture with this SHA-256, in hex."""
        for row in self._digests.rows(sha256):
            if self._images.take([row], ["sha256"])["sha256"][0].as_py() == sha256:
                return row
        return None

    def at(self, uri: str) -> int | None:
        """The row of the picture that was found at this address."""
        for row in self._places.rows(uri):
            found = self._images.take([row], self._addresses).to_pylist()[0]
            if uri == found["uri"] or uri in (found.get("duplicate_uris") or ()):
                return row
        return None


class _Table:
    """Hashes in order, and the rows that they stand for."""

    def __init__(self, parts: Sequence[tuple[NDArray[np.uint64], NDArray[np.int64]]]) -> None:
        keys = np.concatenate([np.empty(0, np.uint64), *(keys for keys, _ in parts)])
        rows = np.concatenate([np.empty(0, np.int64), *(rows for _, rows in parts)])
        order = np.argsort(keys, kind="stable")
        self._keys, self._rows = keys[order], rows[order]

    def rows(self, value: str) -> list[int]:
        key = _keys([value])[0]
        start, stop = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
        found: list[int] = self._rows[start:stop].tolist()
        return found


def _keys(values: Iterable[str | None]) -> NDArray[np.uint64]:
    digests = b"".join(hashlib.blake2b((value or "").encode(), digest_size=8).digest() for value in values)
    return np.frombuffer(digests, np.uint64)
