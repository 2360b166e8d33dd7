"""A snapshot: one immutable state of an index, memory-mapped."""

import hashlib
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from vector_index import tables
from vector_index.collection import Collection, open_part
from vector_index.errors import SnapshotCorrupt
from vector_index.files import sha256
from vector_index.manifest import MANIFEST_NAME, Manifest, read_manifest

COLLECTIONS: Final = ("images", "texts")
THUMBNAILS: Final = "thumbnails.arrow"
REJECTS: Final = "rejects.jsonl"
REQUIRED: Final = (*(f"{name}.{kind}" for name in COLLECTIONS for kind in ("faiss", "arrow", "order.npy")), REJECTS)


class _Parts(NamedTuple):
    images: Collection
    texts: Collection
    thumbnails: tables.MappedTable | None


class Snapshot:
    """One immutable state of an index. Reading it is safe from several threads; `with` closes it.

    `name` is that of its directory, `path` the directory itself, `manifest` what is known about it.
    """

    def __init__(self, path: Path) -> None:
        """Open the snapshot at `path` after checks that read no data.

        Every file has the size in the manifest, tables and indexes the rows and the dim; `verify` looks further.

        Raises:
            SnapshotCorrupt: a check failed; the message names the file.
            UnsupportedFormat: the manifest is of another format version.
        """
        self.path = path
        self.name = path.name
        self.manifest: Manifest = read_manifest(path)
        self._check_sizes()
        dim = self.manifest.model.dim
        self._parts: _Parts | None = _Parts(
            Collection(path, "images", self.manifest.images, dim),
            Collection(path, "texts", self.manifest.texts, dim),
            self._open_thumbnails(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Snapshot({self.name!r})"

    @property
    def images(self) -> Collection:
        """The pictures."""
        return self._opened.images

    @property
    def texts(self) -> Collection:
        """The captions; may be empty."""
        return self._opened.texts

    def thumbnail(self, row: int) -> bytes | None:
        """Return the thumbnail of the picture at `row`, None where it has none.

        Raises:
            IndexError: a row out of range.
        """
        tables.check_rows([row], len(self.images))
        thumbnails = self._opened.thumbnails
        value: bytes | None = thumbnails.value("thumbnail", row) if thumbnails is not None else None
        return value

    def close(self) -> None:
        """Let go of the maps. Collections and tables still held elsewhere stay usable until they go too."""
        self._parts = None

    def verify(self) -> list[str]:
        """Read everything and return what is wrong, nothing if all is well.

        Each file is hashed first. Only if all are as they were written is their content looked at (a table with
        damaged offsets is not safe to read): ids are unique and in order, and texts name images that exist.

        Raises:
            SnapshotCorrupt: a file is missing or has changed its size since the snapshot was opened.
        """
        self._check_sizes()
        problems = [
            f"{name}: content changed since it was written (SHA-256 differs)"
            for name, stamp in self.manifest.files.items()
            if sha256(self.path / name) != stamp.sha256
        ]
        if not self.name.endswith(f"-{manifest_hash((self.path / MANIFEST_NAME).read_bytes())}"):
            problems.append(f"{MANIFEST_NAME}: content changed since it was written (see the snapshot's name)")
        if problems:
            return problems

        for name, collection in zip(COLLECTIONS, (self.images, self.texts), strict=True):
            if (wrong := tables.first_out_of_order(collection.table, collection.order)) is not None:
                problems.append(f"{name}: id {wrong!r} is there twice, or {name}.order.npy is not sorted by id")
        dangling = islice(tables.dangling_image_ids(self.images.table, self.texts.table), 10)
        problems += [f"texts.arrow: names image {id!r}, which does not exist" for id in dangling]
        return problems

    @property
    def _opened(self) -> _Parts:
        if self._parts is None:
            raise ValueError(f"snapshot {self.name} is closed")
        return self._parts

    def _check_sizes(self) -> None:
        for name in REQUIRED:
            if name not in self.manifest.files:
                raise SnapshotCorrupt(f"{self.path / MANIFEST_NAME}: {name} is not listed")
        for name, stamp in self.manifest.files.items():
            path = self.path / name
            try:
                size = path.stat().st_size
            except OSError as error:
                raise SnapshotCorrupt(f"{path}: {error.strerror}") from error
            if size != stamp.size:
                raise SnapshotCorrupt(f"{path}: {size} bytes, {stamp.size} in the manifest")

    def _open_thumbnails(self) -> tables.MappedTable | None:
        if THUMBNAILS not in self.manifest.files:
            return None
        thumbnails: tables.MappedTable = open_part(self.path / THUMBNAILS, tables.MappedTable)
        rows = self.manifest.images.rows
        if len(thumbnails) != rows:
            raise SnapshotCorrupt(f"{self.path / THUMBNAILS}: {len(thumbnails)} rows, {rows} in the manifest")
        return thumbnails


def manifest_hash(content: bytes) -> str:
    """Return the hash that ends a snapshot's name: of its manifest, and so of every file."""
    return hashlib.sha256(content).hexdigest()[:12]
