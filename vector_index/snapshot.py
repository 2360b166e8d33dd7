"""A snapshot: one immutable state of an index, memory-mapped."""

import hashlib
import json
from collections.abc import Container, Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from vector_index import tables
from vector_index.collection import Collection, dangling_image_ids
from vector_index.errors import SnapshotCorrupt
from vector_index.files import sha256
from vector_index.manifest import MANIFEST_NAME, Manifest, read_manifest
from vector_index.segment import Segment, open_part

COLLECTIONS: Final = ("images", "texts")
REJECTS: Final = "rejects.jsonl"


class _Parts(NamedTuple):
    images: Collection
    texts: Collection
    thumbnails: dict[str, tables.MappedTable]  # by the name of their segment


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
            Collection(path, self.manifest.images.parts("images"), dim),
            Collection(path, self.manifest.texts.parts("texts"), dim),
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
        segment, place = self.images.locate(row)
        thumbnails = self.thumbnails_of(segment)
        value: bytes | None = thumbnails.value("thumbnail", place) if thumbnails is not None else None
        return value

    def thumbnails_of(self, segment: Segment) -> tables.MappedTable | None:
        """The thumbnails of a segment of pictures, a row each; None where none has one."""
        return self._opened.thumbnails.get(segment.stamp.name)

    @property
    def has_thumbnails(self) -> bool:
        """Whether any picture may have one."""
        return bool(self._opened.thumbnails)

    @property
    def index_files(self) -> list[Path]:
        """The FAISS indexes, which searches read through a map."""
        return sorted(self.path.glob("*.faiss"))

    def rejects(self) -> Iterator[tuple[str, str]]:
        """Yield the address and the reason of every input that was left out."""
        with (self.path / REJECTS).open(encoding="utf-8") as lines:
            for line in map(json.loads, lines):
                yield line["uri"], line["reason"]

    def close(self) -> None:
        """Let go of the maps. Collections and tables still held elsewhere stay usable until they go too."""
        self._parts = None

    def check_files(self, names: Iterable[str] | None = None) -> list[str]:
        """Read every file, or those named, and return what is not as it was written, nothing if all is well.

        Raises:
            SnapshotCorrupt: a file is missing or has changed its size since the snapshot was opened.
        """
        self._check_sizes()
        problems = [
            f"{name}: content changed since it was written (SHA-256 differs)"
            for name in (self.manifest.files if names is None else names)
            if sha256(self.path / name) != self.manifest.files[name].sha256
        ]
        if not self.name.endswith(f"-{manifest_hash((self.path / MANIFEST_NAME).read_bytes())}"):
            problems.append(f"{MANIFEST_NAME}: content changed since it was written (see the snapshot's name)")
        return problems

    def verify(self, trusted: Container[str] = ()) -> list[str]:
        """Read everything and return what is wrong, nothing if all is well.

        Each file is hashed first. Only if all are as they were written is their content looked at (a table with
        damaged offsets is not safe to read): ids are unique and in order, and texts name images that exist.

        Args:
            trusted: files that have been verified as those of another snapshot; what they say alone is not read again.

        Raises:
            SnapshotCorrupt: a file is missing or has changed its size since the snapshot was opened.
        """
        if problems := self.check_files(name for name in self.manifest.files if name not in trusted):
            return problems
        for name, collection in zip(COLLECTIONS, (self.images, self.texts), strict=True):
            for segment in collection.segments:
                own = segment.stamp.name
                if f"{own}.arrow" in trusted:
                    continue
                if (wrong := tables.first_out_of_order(segment.table, segment.order)) is not None:
                    problems.append(f"{own}: id {wrong!r} is there twice, or {own}.order.npy is not sorted by id")
            if (twice := collection.duplicate_id()) is not None:
                problems.append(f"{name}: id {twice!r} is there twice")
        dangling = islice(dangling_image_ids(self.images, self.texts), 10)
        problems += [f"texts: one names image {id!r}, which does not exist" for id in dangling]
        return problems

    @property
    def _opened(self) -> _Parts:
        if self._parts is None:
            raise ValueError(f"snapshot {self.name} is closed")
        return self._parts

    def _check_sizes(self) -> None:
        for name in (REJECTS, *self._required()):
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

    def _required(self) -> Iterator[str]:
        for name, collection in zip(COLLECTIONS, (self.manifest.images, self.manifest.texts), strict=True):
            segments = collection.parts(name)
            if sum(segment.rows - segment.deleted for segment in segments) != collection.rows:
                raise SnapshotCorrupt(f"{self.path / MANIFEST_NAME}: {name} are not as many as their segments have")
            for segment in segments:
                yield from segment_files(segment.name, deleted=segment.deleted > 0)

    def _open_thumbnails(self) -> dict[str, tables.MappedTable]:
        found = {}
        for segment in self.manifest.images.parts("images"):
            name = thumbnails_name(segment.name)
            if name not in self.manifest.files:
                continue
            opened: tables.MappedTable = open_part(self.path / name, tables.MappedTable)
            if len(opened) != segment.rows:
                raise SnapshotCorrupt(f"{self.path / name}: {len(opened)} rows, {segment.rows} in the manifest")
            found[segment.name] = opened
        return found


def segment_files(name: str, *, deleted: bool = False) -> list[str]:
    """Names of the files that a segment must have."""
    return [f"{name}.{kind}" for kind in ("faiss", "arrow", "order.npy", *(["deleted.npy"] if deleted else []))]


def thumbnails_name(segment: str) -> str:
    """The name of the file with the thumbnails of a segment of pictures: thumbnails.arrow, thumbnails-1.arrow …"""
    return f"{segment.replace('images', 'thumbnails')}.arrow"


def manifest_hash(content: bytes) -> str:
    """Return the hash that ends a snapshot's name: of its manifest, and so of every file."""
    return hashlib.sha256(content).hexdigest()[:12]
