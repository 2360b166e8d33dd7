"""manifest.json: what a snapshot is made of and how it was made."""

import json
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vector_index.errors import SnapshotCorrupt, UnsupportedFormat

FORMAT_VERSION: Final = 2
_READABLE: Final = (1, 2)  # 1 has one segment, the whole, in each collection
MANIFEST_NAME: Final = "manifest.json"

_ALIASES: Final = {"ef_search": "efSearch", "recall_at_10": "recall@10"}


class _Stamp(BaseModel):
    model_config = ConfigDict(frozen=True)


class ModelStamp(_Stamp):
    """The dual encoder whose vectors a snapshot holds."""

    reference: str
    fingerprint: str
    dim: int = Field(gt=0)


class FileStamp(_Stamp):
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


class RecallPoint(_Stamp):
    """Recall@10 against exact search, measured at one efSearch; in JSON `{"efSearch": …, "recall@10": …}`."""

    model_config = ConfigDict(alias_generator=lambda name: _ALIASES[name], populate_by_name=True)

    ef_search: int
    recall_at_10: float


class IndexStamp(_Stamp):
    """A FAISS index: its factory string, its parameters (efSearch, M, efConstruction) and its measured recall@10."""

    kind: str
    parameters: dict[str, int] = {}
    recall: float = 1.0
    recall_curve: list[RecallPoint] = []


class SegmentStamp(_Stamp):
    """Consecutive rows of a collection, `deleted` of them no longer there: in files that begin with `name`."""

    name: str = Field(pattern=r"^[a-z]+(-[0-9]+)?$")
    rows: int
    deleted: int = 0
    index: IndexStamp


class CollectionStamp(_Stamp):
    """One of the two collections of a snapshot: its rows that are there, and its largest segment's index."""

    rows: int
    index: IndexStamp
    segments: list[SegmentStamp] = []

    def parts(self, name: str) -> list[SegmentStamp]:
        """The segments of the collection of this name, oldest first."""
        return self.segments or [SegmentStamp(name=name, rows=self.rows, index=self.index)]


class Manifest(_Stamp):
    """Everything about a snapshot but its data. `files` maps each name, all but the manifest's own, to its stamp.

    `source` is where the corpus lies; addresses in it are relative to that. `sources` are the places of what was added
    from elsewhere, whose addresses say so. `index_type` is as it was asked for.
    """

    format_version: int = FORMAT_VERSION
    created: datetime
    model: ModelStamp
    source: str
    sources: list[str] = []
    index_type: str = "auto"
    target_recall: float
    images: CollectionStamp
    texts: CollectionStamp
    rejects: int
    files: dict[str, FileStamp]

    def to_json(self) -> str:
        """Return the content of manifest.json."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def read_manifest(snapshot: Path) -> Manifest:
    """Read a snapshot's manifest.

    Raises:
        SnapshotCorrupt: it is missing or is not a manifest.
        UnsupportedFormat: it is of another format version; nothing else in it is looked at.
    """
    path = snapshot / MANIFEST_NAME
    try:
        content = json.loads(path.read_bytes())
        version = content["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SnapshotCorrupt(f"{path}: not readable as a manifest: {error!r}") from error
    if version not in _READABLE:
        raise UnsupportedFormat(f"{path}: format version {version!r}; this version reads {FORMAT_VERSION} and older")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise SnapshotCorrupt(f"{path}: {error}") from error
