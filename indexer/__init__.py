"""Offline: a corpus of pictures -> vectors -> a published snapshot."""

from __future__ import annotations

from indexer.build import BuildReport, Progress, build_index
from indexer.records import Record, SourceError

__all__ = ["BuildReport", "Progress", "Record", "SourceError", "build_index"]
