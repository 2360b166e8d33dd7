"""Symmetric InfoNCE with a learned temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def info_nce(
    images: torch.Tensor,
    texts: torch.Tensor,
    logit_scale: torch.Tensor,
    *,
    rows: slice = slice(None),
    true_texts: torch.Tensor | None = None,
    true_images: torch.Tensor | None = None,
    false_texts: torch.Tensor | None = None,
    hardness: float = 0.0,
) -> torch.Tensor:
    """Symmetric InfoNCE over in-batch negatives (Radford et al., 2021, "Learning Transferable Visual Models").

    `images` and `texts` are unit vectors (n, dim), row i of one belonging to row i of the other; `logit_scale` is
    1/τ, a positive scalar. `true_texts` bool (rows, n) marks texts that are true of a row's picture too, `true_images`
    bool (rows, n) pictures of which a row's text is true too: these are nobody's negatives. `false_texts` (m, dim) are
    written negatives that every picture is compared with besides (Yuksekgonul et al., 2023, "When and Why
    Vision-Language Models Behave like Bags-of-Words"); then `true_texts` is (rows, n + m). `hardness` β weights each
    negative by its own exp(β · logit), with mean 1 (Robinson et al., 2021, "Contrastive Learning with Hard Negative
    Samples"); 0 weights all alike. Returns the part of the rows in the mean of both cross-entropies.
    """
    import torch

    own = torch.arange(len(texts), device=texts.device)[rows]
    every = texts if false_texts is None else torch.cat([texts, false_texts])
    to_texts = _cross_entropy(logit_scale * images[rows] @ every.T, own, true_texts, hardness) / len(texts)
    to_images = _cross_entropy(logit_scale * texts[rows] @ images.T, own, true_images, hardness) / len(texts)
    return (to_texts + to_images) / 2


def _cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, also_true: torch.Tensor | None, hardness: float
) -> torch.Tensor:
    import torch
    from torch.nn.functional import cross_entropy

    if also_true is not None:
        own = target[:, None] == torch.arange(logits.shape[1], device=logits.device)
        logits = logits.masked_fill(also_true & ~own, float("-inf"))
    if hardness:
        logits = logits + _hardness(logits.detach(), target, hardness)
    return cross_entropy(logits, target, reduction="sum")


def _hardness(logits: torch.Tensor, target: torch.Tensor, hardness: float) -> torch.Tensor:
    """The logarithm of the weight of every negative; 0 for the positives and for what is no negative."""
    import torch

    negatives = hardness * logits.scatter(1, target[:, None], float("-inf"))
    count = torch.isfinite(negatives).sum(1, keepdim=True)
    mean = negatives.logsumexp(1, keepdim=True) - count.clamp(min=1).log()
    weights = negatives - mean
    return torch.where(torch.isfinite(weights), weights, torch.zeros_like(weights))
