"""Distillation equals open_clip's, whatever the teacher's dimension, and is least where the student agrees."""

from __future__ import annotations

import torch
from open_clip.loss import DistillClipLoss

from training.objectives.distillation import distillation

Vectors = tuple[torch.Tensor, torch.Tensor]
SCALE = torch.tensor(5.0, dtype=torch.float64)


def teacher() -> Vectors:
    torch.manual_seed(3)
    a, b = (torch.nn.functional.normalize(torch.randn(6, 9, dtype=torch.float64), dim=1) for _ in range(2))
    return a, b


def test_equals_open_clip(vectors: Vectors) -> None:
    _, expected = DistillClipLoss()(*vectors, SCALE, *teacher(), 8.0)
    torch.testing.assert_close(distillation(*vectors, SCALE, *teacher(), 8.0), expected)
    parts = [distillation(*vectors, SCALE, *teacher(), 8.0, rows=slice(s, s + 2)) for s in (0, 2, 4)]
    torch.testing.assert_close(sum(parts), expected)


def test_least_where_the_student_agrees() -> None:
    agreeing = distillation(*teacher(), torch.tensor(8.0, dtype=torch.float64), *teacher(), 8.0)
    turned = distillation(teacher()[0].flip(0), teacher()[1], torch.tensor(8.0, dtype=torch.float64), *teacher(), 8.0)
    assert agreeing < turned
