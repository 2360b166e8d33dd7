"""Learning to find alike what a stronger model finds alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def distillation(
    images: torch.Tensor,
    texts: torch.Tensor,
    logit_scale: torch.Tensor,
    teacher_images: torch.Tensor,
    teacher_texts: torch.Tensor,
    teacher_scale: float,
    *,
    rows: slice = slice(None),
) -> torch.Tensor:
    """Cross-entropy between the teacher's and the student's distributions over a batch, both ways.

    Affinity mimicking (Wu et al., 2023, "TinyCLIP"): the teacher's vectors may have another dimension; the distribution
    of each row is taken at its own model's temperature. Arguments as of `info_nce`.
    """
    return (
        _mimic(logit_scale * images[rows] @ texts.T, teacher_scale * teacher_images[rows] @ teacher_texts.T)
        + _mimic(logit_scale * texts[rows] @ images.T, teacher_scale * teacher_texts[rows] @ teacher_images.T)
    ) / 2


def _mimic(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return -(teacher.softmax(1) * student.log_softmax(1)).sum() / student.shape[1]
