"""Offline: a corpus of pictures -> vectors -> a published snapshot."""

from __future__ import annotations

from indexer.build import BuildReport, Progress, build_index
from indexer.change import ChangeReport, add_to_index, compact_index, remove_from_index

__all__ = [
    "BuildReport",
    "ChangeReport",
    "Progress",
    "add_to_index",
    "build_index",
    "compact_index",
    "remove_from_index",
]
