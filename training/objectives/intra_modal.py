"""Captions against captions: one of a picture lies nearer to another of it than to what is false of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def intra_modal(
    captions: torch.Tensor, negatives: torch.Tensor, logit_scale: torch.Tensor, true_negatives: torch.Tensor, total: int
) -> torch.Tensor:
    """Cross-entropy of each caption's similarities to the next caption of its picture and to its written negatives.

    Pictures are compared with texts by inner products, so while neither tower tells a caption from the same words in
    another order, neither learns it from the other. This asks the text tower alone, after Zhang et al., 2024,
    "Contrasting Intra-Modal and Ranking Cross-Modal Hard Negatives to Enhance Visio-Linguistic Compositional
    Understanding".

    `captions` (n, c ≥ 2, dim) and `negatives` (n, m ≥ 1, dim) are unit vectors of n pictures' texts; `true_negatives`
    bool (n, m) marks those that are true all the same: they count neither for nor against. `logit_scale` is 1/τ.
    Returns the n pictures' part of the mean over `total`.
    """
    import torch

    others = captions.roll(-1, 1)
    near = (captions * others).sum(-1, keepdim=True)
    logits = logit_scale * torch.cat([near, captions @ negatives.transpose(1, 2)], -1)
    hidden = torch.nn.functional.pad(true_negatives, (1, 0))[:, None]
    logits = logits.masked_fill(hidden, float("-inf"))  # last: the temperature's gradient would be 0 · ∞
    return -logits.log_softmax(-1)[..., 0].mean(1).sum() / total
