"""Offline: a corpus of pictures -> vectors -> a published snapshot."""

from __future__ import annotations

from indexer.build import BuildReport, Progress, build_index
from indexer.change import ChangeReport, add_to_index, compact_index, remove_from_index
from indexer.engine import EngineError

__all__ = [
    "BuildReport",
    "ChangeReport",
    "EngineError",
    "Progress",
    "add_to_index",
    "build_index",
    "compact_index",
    "remove_from_index",
]
