"""What training minimises."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def info_nce(images: torch.Tensor, texts: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE over in-batch negatives (Radford et al., 2021, "Learning Transferable Visual Models").

    `images` and `texts` are unit vectors (n, dim), row i of one belonging to row i of the other; `logit_scale` is
    1/τ, a positive scalar. Returns the mean of the image-to-text and text-to-image cross-entropies.
    """
    import torch
    from torch.nn.functional import cross_entropy

    logits = logit_scale * images @ texts.T
    target = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
