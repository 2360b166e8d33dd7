"""Unit vectors to compare, in float64."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def vectors() -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and texts, unit float64 (6, 4)."""
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(6, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    return torch.nn.functional.normalize(images, dim=1), torch.nn.functional.normalize(texts, dim=1)
