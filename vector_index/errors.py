"""What can go wrong with an index directory.

VectorIndexError
├── IndexNotFound        there is no live snapshot at this path
├── SnapshotCorrupt      a file of a snapshot is missing, cut short, unreadable, or disagrees with the others
├── UnsupportedFormat    the snapshot was written in a format this version does not read
├── IndexLocked          another writer holds the index
├── UnknownId            no row has this id
├── DimensionMismatch    vectors of the wrong shape for this index
├── BadIndexType         an index type that is not supported
├── BadParameter         a search parameter that the index does not have, or out of its bounds
├── BadFilter            a filter that the table's columns do not allow
├── StoreUnavailable     a store does not answer, or not in time
└── StoreRefused         a store does not do what is asked of it
    └── BeyondStore      it asks for more than the store can do

Bad input data (NaN, duplicate ids, schemas that differ) raises the built-in ValueError; rows out of range, IndexError.
"""


class VectorIndexError(Exception):
    """Base of every error that this package defines."""


class IndexNotFound(VectorIndexError):
    """There is no live snapshot at this path."""


class SnapshotCorrupt(VectorIndexError):
    """A file of a snapshot is missing, cut short, unreadable, or disagrees with the others."""


class UnsupportedFormat(VectorIndexError):
    """The snapshot was written in a format this version does not read."""


class IndexLocked(VectorIndexError):
    """Another writer holds the index; the message says who."""


class UnknownId(VectorIndexError):
    """No row of the collection has this id."""


class DimensionMismatch(VectorIndexError):
    """Vectors are not of shape (n, dim) with the index's own dim."""


class BadIndexType(VectorIndexError):
    """The index type is not one of those supported."""


class BadParameter(VectorIndexError):
    """A search parameter that the index does not have, or out of its bounds; the message says what is allowed."""


class BadFilter(VectorIndexError):
    """A filter is not well formed, or does not fit the columns; the message says what is allowed."""


class StoreUnavailable(VectorIndexError):
    """A store beyond this machine does not answer, not in time, or not with what was asked for; it may later."""


class StoreRefused(VectorIndexError):
    """A store does not do what is asked of it; the message is the store's own, for whoever runs it."""


class BeyondStore(StoreRefused):
    """What is asked is more than the store can do; the message says what is allowed, for whoever asks."""
