from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.prepare import agreement


@pytest.mark.parametrize("exact_up_to", [10_000, 0])
def test_alike_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact_up_to: int) -> None:
    monkeypatch.setattr(agreement, "_EXACT_UP_TO", exact_up_to)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1500, 24)).astype(np.float32)
    vectors[700:900] = vectors[:200] + 0.02 * rng.standard_normal((200, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors.tofile(tmp_path / "vectors")
    pairs = agreement.alike(tmp_path / "vectors", 1500, 24, 0.98)
    assert {(i, 700 + i) for i in range(200)} == {tuple(p) for p in pairs.tolist()}


def test_nothing_is_alike(tmp_path: Path) -> None:
    np.eye(8, dtype=np.float32).tofile(tmp_path / "vectors")
    assert agreement.alike(tmp_path / "vectors", 8, 8, 0.5).shape == (0, 2)
