"""SigLIP's sigmoid loss: every picture–text pair of a batch is a yes-or-no question of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def sigmoid(
    images: torch.Tensor,
    texts: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    *,
    rows: slice = slice(None),
    true_texts: torch.Tensor | None = None,
    false_texts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Zhai et al., 2023, "Sigmoid Loss for Language Image Pre-Training".

    Arguments as of `info_nce`; `logit_bias` is a learned scalar that starts at about −10, because almost every pair is
    a negative. Pairs that are true though not drawn together are left out.
    """
    import torch
    from torch.nn.functional import logsigmoid

    n = len(texts)
    every = texts if false_texts is None else torch.cat([texts, false_texts])
    logits = logit_scale * images[rows] @ every.T + logit_bias
    target = torch.arange(len(every), device=logits.device)
    own = target[:n][rows][:, None] == target
    losses = -logsigmoid(torch.where(own, logits, -logits))
    if true_texts is not None:
        losses = losses.masked_fill(true_texts & ~own, 0.0)
    return losses.sum() / n
