"""Offline: a corpus of pictures -> vectors -> a published snapshot."""

from __future__ import annotations

from indexer.build import BuildReport, Progress, build_index
from indexer.change import ChangeReport, add_to_index, compact_index, remove_from_index
from indexer.dedup import DuplicateGroup, find_duplicates
from indexer.engine import EngineError
from indexer.exporting import ExportReport, export_index
from indexer.importing import ImportReport, import_index

__all__ = [
    "BuildReport",
    "ChangeReport",
    "DuplicateGroup",
    "EngineError",
    "ExportReport",
    "ImportReport",
    "Progress",
    "add_to_index",
    "build_index",
    "compact_index",
    "export_index",
    "find_duplicates",
    "import_index",
    "remove_from_index",
]
