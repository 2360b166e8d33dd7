"""Offline: a corpus of pictures -> vectors -> a published snapshot."""

from __future__ import annotations

from indexer.build import BuildReport, Progress, build_index
from indexer.engine import EngineError

__all__ = ["BuildReport", "EngineError", "Progress", "build_index"]
