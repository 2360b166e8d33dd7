"""What an import remembers of ids and captions: on disk, so that memory does not grow with the corpus."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.ledger import text_digest

_CACHE_KIB = 65_536
_TABLES = """
CREATE TABLE picture (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE caption (number INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, text TEXT NOT NULL, vector BLOB);
CREATE TABLE shows (caption INTEGER, number INTEGER, picture TEXT, PRIMARY KEY (caption, number)) WITHOUT ROWID;
"""


class ImportLedger:
    """A scratch database in a folder. Use from one thread. Raises OSError where it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ledger.sqlite"
        self._database = sqlite3.connect(self._path, isolation_level=None)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", f"cache_size=-{_CACHE_KIB}"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.executescript(_TABLES)
        self._said = 0

    def has_id(self, id: str) -> bool:
        """Whether an earlier picture has this id."""
        return self._database.execute("SELECT 1 FROM picture WHERE id = ?", (id,)).fetchone() is not None

    def note(self, pictures: Iterable[tuple[str, Sequence[str]]]) -> None:
        """Remember ids, each of them new, and the captions said of them."""
        with self._writing():
            for id, captions in pictures:
                self._database.execute("INSERT INTO picture VALUES (?)", (id,))
                for text in captions:
                    digest = text_digest(text)
                    ask = "INSERT OR IGNORE INTO caption (digest, text) VALUES (?, ?)"
                    self._database.execute(ask, (digest, text))
                    [number] = self._database.execute(
                        "SELECT number FROM caption WHERE digest = ?", (digest,)
                    ).fetchone()
                    self._database.execute("INSERT INTO shows VALUES (?, ?, ?)", (number, self._said, id))
                    self._said += 1

    def give(self, vectors: Iterable[tuple[str, NDArray[np.float32]]]) -> list[str]:
        """Vectors of captions, float32 (dim,); the first of each counts. Returns captions that no picture has."""
        unknown = []
        with self._writing():
            for text, vector in vectors:
                ask = "UPDATE caption SET vector = coalesce(vector, ?) WHERE digest = ?"
                if not self._database.execute(ask, (vector.astype(np.float32).tobytes(), text_digest(text))).rowcount:
                    unknown.append(text)
        return unknown

    def without_vector(self, size: int) -> Iterator[list[str]]:
        """Captions that have no vector, `size` at a time. They may be given theirs in between."""
        last = 0
        ask = "SELECT number, text FROM caption WHERE vector IS NULL AND number > ? ORDER BY number LIMIT ?"
        while rows := self._database.execute(ask, (last, size)).fetchall():
            last = rows[-1][0]
            yield [text for _, text in rows]

    def with_vector(self, size: int) -> Iterator[list[tuple[str, NDArray[np.float32], list[str]]]]:
        """Captions, vectors and the ids of their pictures, in the order in which they were said, `size` at a time."""
        cursor = self._database.execute(
            "SELECT number, text, vector FROM caption WHERE vector NOT NULL ORDER BY number"
        )
        while rows := cursor.fetchmany(size):
            yield [(text, np.frombuffer(vector, np.float32), self._shown(number)) for number, text, vector in rows]

    def close(self) -> None:
        self._database.close()
        self._path.unlink(missing_ok=True)

    def _shown(self, caption: int) -> list[str]:
        ask = "SELECT picture FROM shows WHERE caption = ? ORDER BY number"
        return [id for (id,) in self._database.execute(ask, (caption,))]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self._database.execute("BEGIN")
            yield
            self._database.execute("COMMIT")
        except sqlite3.OperationalError as error:  # the disk is full
            raise OSError(f"{self._path}: {error}") from None
