"""What a build remembers of the pictures and captions so far: on disk, so that memory does not grow with the corpus."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

LEDGER = "ledger.sqlite"
_CACHE_KIB = 16_384

_TABLES = """
CREATE TABLE picture (digest BLOB PRIMARY KEY, place INTEGER NOT NULL, id TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE own (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE again (place INTEGER, number INTEGER, uri TEXT, captions TEXT, PRIMARY KEY (place, number)) WITHOUT ROWID;
CREATE TABLE shows (text INTEGER, picture TEXT, number INTEGER, PRIMARY KEY (text, picture)) WITHOUT ROWID;
"""


class Again(NamedTuple):
    """What later records of the same picture add to it, in their order."""

    uris: list[str]
    captions: list[str]


class Ledger:
    """A scratch database, made anew from the finished parts by every run: it survives neither crash nor build.

    Good pictures are numbered by `place` in the order of the source. Use from one thread.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEDGER
        self._path.unlink(missing_ok=True)
        self._database = sqlite3.connect(self._path, isolation_level=None)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", f"cache_size=-{_CACHE_KIB}"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.executescript(_TABLES)
        self._pictures = self._records = 0

    def has_picture(self, digest: bytes) -> bool:
        """`digest` is the SHA-256 of the picture's bytes."""
        return self._has("SELECT 1 FROM picture WHERE digest = ?", digest)

    def has_id(self, id: str) -> bool:
        """Whether an earlier picture has this id of the corpus' own."""
        return self._has("SELECT 1 FROM own WHERE id = ?", id)

    def has_text(self, text: str) -> bool:
        return self._has("SELECT 1 FROM shows WHERE text = ? LIMIT 1", _key(text))

    def note(self, rows: list[dict[str, Any]]) -> None:
        """Remember a finished part; its rejected rows leave no trace. Raises OSError where it cannot be written."""
        try:
            self._database.execute("BEGIN")
            for row in rows:
                if row["reject"] is None:
                    self._note(row)
            self._database.execute("COMMIT")
        except sqlite3.OperationalError as error:  # the disk is full
            raise OSError(f"{self._path}: {error}") from None

    def again(self, start: int, stop: int) -> dict[int, Again]:
        """What was added to the pictures of places start ≤ place < stop; most have nothing and are left out."""
        found: defaultdict[int, Again] = defaultdict(lambda: Again([], []))
        ask = "SELECT place, uri, captions FROM again WHERE place >= ? AND place < ? ORDER BY place, number"
        for place, uri, captions in self._database.execute(ask, (start, stop)):
            found[place].uris.append(uri)
            found[place].captions.extend(json.loads(captions))
        return dict(found)

    def pictures_of(self, text: str) -> list[str]:
        """Ids of the pictures that a caption belongs to, each once, in the order in which they were said to."""
        ask = "SELECT picture FROM shows WHERE text = ? ORDER BY number"
        return [id for (id,) in self._database.execute(ask, (_key(text),))]

    def close(self) -> None:
        self._database.close()
        self._path.unlink(missing_ok=True)

    def _note(self, row: dict[str, Any]) -> None:
        digest = bytes.fromhex(row["sha256"])
        if row["vector"] is not None:
            id = row["id"] or row["sha256"][:16]
            self._database.execute("INSERT INTO picture VALUES (?, ?, ?)", (digest, self._pictures, id))
            self._pictures += 1
            if row["id"] is not None:
                self._database.execute("INSERT OR IGNORE INTO own VALUES (?)", (row["id"],))
        else:
            ask = "SELECT place, id FROM picture WHERE digest = ?"
            place, id = self._database.execute(ask, (digest,)).fetchone()
            said = json.dumps(row["captions"])
            self._database.execute("INSERT INTO again VALUES (?, ?, ?, ?)", (place, self._records, row["uri"], said))
        links = ((_key(text), id, number) for number, text in enumerate(row["captions"], self._records))
        self._database.executemany("INSERT OR IGNORE INTO shows VALUES (?, ?, ?)", links)
        self._records += max(1, len(row["captions"]))

    def _has(self, ask: str, value: Any) -> bool:
        return self._database.execute(ask, (value,)).fetchone() is not None


def text_digest(text: str) -> bytes:
    """The 8 bytes that name a caption."""
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8]


def _key(text: str) -> int:
    return int.from_bytes(text_digest(text), "big", signed=True)
