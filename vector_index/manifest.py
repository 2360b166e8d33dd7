"""manifest.json: what a snapshot is made of and how it was made."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vector_index.errors import SnapshotCorrupt, UnsupportedFormat

FORMAT_VERSION: Final = 2
_READABLE: Final = (1, 2)  # 1 has one segment, the whole, in each collection
MANIFEST_NAME: Final = "manifest.json"


class _Stamp(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


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
    """Recall@10 against exact search and a query's milliseconds of one thread, measured with some parameters."""

    model_config = ConfigDict(populate_by_name=True)

    parameters: dict[str, int]
    recall_at_10: float = Field(alias="recall@10")
    ms: float

    @model_validator(mode="before")
    @classmethod
    def _as_once(cls, value: Any) -> Any:
        """The points of the first snapshots were `{"efSearch": …, "recall@10": …}`, without a time."""
        if isinstance(value, dict) and "efSearch" in value:
            return {"parameters": {"efSearch": value["efSearch"]}, "recall@10": value.get("recall@10"), "ms": 0.0}
        return value


class OperatingPoint(RecallPoint):
    """The point chosen for the queries of one modality, and the curve that it is chosen from, the quickest first."""

    curve: list[RecallPoint] = []


class IndexStamp(_Stamp):
    """A FAISS index: its factory string, what it was built with and is searched with by default, its recall@10.

    `queries` has the operating point for "images" and for "texts" as queries, as far as they were measured; `recall` is
    the lower of theirs. The first snapshots have one `recall_curve` for both instead.
    """

    kind: str
    parameters: dict[str, int] = {}
    recall: float = 1.0
    queries: dict[str, OperatingPoint] = {}
    recall_curve: list[RecallPoint] = []

    def parameters_for(self, modality: str | None) -> dict[str, int]:
        """What queries of a modality are searched with; without one, what serves both."""
        point = self.queries.get(modality or "")
        return self.parameters if point is None else point.parameters


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
    from elsewhere, whose addresses say so. `index_type`, `memory` (bytes) and `target_latency_ms` are as asked for.
    """

    format_version: int = FORMAT_VERSION
    created: datetime
    model: ModelStamp
    source: str
    sources: list[str] = []
    index_type: str = "auto"
    target_recall: float
    memory: int | None = None
    target_latency_ms: float | None = None
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
        content = path.read_bytes()
        version = json.loads(content)["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SnapshotCorrupt(f"{path}: not readable as a manifest: {error!r}") from error
    if version not in _READABLE:
        raise UnsupportedFormat(f"{path}: format version {version!r}; this version reads {FORMAT_VERSION} and older")
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise SnapshotCorrupt(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
