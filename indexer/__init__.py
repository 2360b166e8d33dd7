"""Offline: a corpus of pictures -> vectors -> a published snapshot."""

from __future__ import annotations

from indexer.build import BuildReport, Progress, build_index

__all__ = ["BuildReport", "Progress", "build_index"]
