"""Weights in 16 bits: half the memory, and the very same vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dual_encoder import openvino_runtime
from dual_encoder.encoder import load_encoder
from dual_encoder.openvino_runtime import core
from dual_encoder.reference import TINY
from dual_encoder.rounding import bf16, round_weights


def test_rounds_to_the_nearest_and_ties_to_even() -> None:
    rng = np.random.default_rng(0)
    ties = (rng.integers(0, 2**15, 1000, dtype=np.uint32) << 16 | 0x8000).view(np.float32)
    values = np.concatenate([rng.standard_normal(1000, dtype=np.float32), ties[np.isfinite(ties)], [0.0, -0.0, np.inf]])
    expected = torch.from_numpy(values.astype(np.float32)).to(torch.bfloat16).view(torch.uint16).numpy()
    assert np.array_equal(bf16(values), expected)
    nothing = np.array([0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan((bf16(nothing).astype(np.uint32) << 16).view(np.float32)).all()


@pytest.mark.skipif(
    "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"), reason="a processor without bf16"
)
def test_vectors_stay_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).standard_normal((3, 3, *load_encoder("tiny").image_size), dtype=np.float32)
    found, sizes = [], []
    for number, change in enumerate((round_weights, lambda model: None)):
        monkeypatch.setattr(openvino_runtime, "round_weights", change)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(number)))
        encoder = load_encoder("tiny", device="cpu", precision="bf16")
        found.append((encoder.encode_texts(["a red star", "a"]).tolist(), encoder.encode_pixels(pixels).tolist()))
        sizes.append(sum(path.stat().st_size for path in (tmp_path / str(number)).rglob("*.blob")))
    assert found[0] == found[1]
    assert sizes[0] < sizes[1]


def test_what_computes_in_32_bits_keeps_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(openvino_runtime, "round_weights", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_encoder(str(TINY), device="cpu", precision="fp32")
