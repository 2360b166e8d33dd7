"""What people ask for, in English and Chinese: stands in for the captions of a corpus that has none."""

from __future__ import annotations

from importlib import resources


def bundled_queries() -> list[str]:
    lines = resources.files("indexer").joinpath("queries.txt").read_text("utf-8").split("\n")
    return [line for line in lines if line]
