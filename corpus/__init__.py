"""Where pictures come from: a folder, a table or shards, here or elsewhere, read as one stream of records."""

from __future__ import annotations

from corpus.records import Record, Source, SourceError
from corpus.source import open_source, place_of

__all__ = ["Record", "Source", "SourceError", "open_source", "place_of"]
