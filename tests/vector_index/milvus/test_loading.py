"""What "auto" stands for in Milvus."""

from __future__ import annotations

import pytest

from vector_index.milvus.loading import choose_kind


@pytest.mark.parametrize(
    ("rows", "memory", "kind", "warns"),
    [
        (50_000, None, "FLAT", False),
        (50_001, None, "HNSW", False),
        (100_000, 100_000 * (64 * 4 + 64 * 4), "HNSW", False),
        (100_000, 100_000 * (64 * 4 + 64 * 4) - 1, "IVF_FLAT", False),
        (100_000, 100_000 * 64 * 4 - 1, "IVF_FLAT", True),
        (10, 1, "FLAT", True),
    ],
)
def test_memory(rows: int, memory: int | None, kind: str, warns: bool, caplog: pytest.LogCaptureFixture) -> None:
    assert choose_kind("photos", rows, 64, memory) == kind
    assert ("of Milvus' memory, more than" in caplog.text) is warns
