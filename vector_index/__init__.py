"""The index directory: immutable, memory-mapped snapshots of pictures, captions and their vectors.

`IndexDirectory` finds and locks an index, `SnapshotWriter` publishes a new snapshot of it, `Snapshot` and its two
`Collection`s read one. Nothing here knows about models: vectors come in and go out as unit float32 arrays.
"""

from vector_index.collection import Collection
from vector_index.directory import IndexDirectory
from vector_index.errors import (
    BadFilter,
    BadIndexType,
    BadParameter,
    BeyondStore,
    DimensionMismatch,
    IndexLocked,
    IndexNotFound,
    SnapshotCorrupt,
    StoreRefused,
    StoreUnavailable,
    UnknownId,
    UnsupportedFormat,
    VectorIndexError,
)
from vector_index.filters import Filter
from vector_index.manifest import (
    CollectionStamp,
    FileStamp,
    IndexStamp,
    Manifest,
    ModelStamp,
    OperatingPoint,
    RecallPoint,
)
from vector_index.snapshot import Snapshot
from vector_index.tuning import Target
from vector_index.writer import SnapshotWriter

__all__ = [
    "BadFilter",
    "BadIndexType",
    "BadParameter",
    "BeyondStore",
    "Collection",
    "CollectionStamp",
    "DimensionMismatch",
    "FileStamp",
    "Filter",
    "IndexDirectory",
    "IndexLocked",
    "IndexNotFound",
    "IndexStamp",
    "Manifest",
    "ModelStamp",
    "OperatingPoint",
    "RecallPoint",
    "Snapshot",
    "SnapshotCorrupt",
    "SnapshotWriter",
    "StoreRefused",
    "StoreUnavailable",
    "Target",
    "UnknownId",
    "UnsupportedFormat",
    "VectorIndexError",
]
