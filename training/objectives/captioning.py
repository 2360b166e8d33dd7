"""Captioning: predict every next token of the caption from those before it and from the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def captioning(logits: torch.Tensor, labels: torch.Tensor, total: int, pad_id: int = 0) -> torch.Tensor:
    """Yu et al., 2022, "CoCa"; `logits` (n, length, vocabulary) and `labels` int64 (n, length), from open_clip's.

    Returns the part of the tokens that are not padding in the mean over `total` of them.
    """
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits.transpose(1, 2).float(), labels, ignore_index=pad_id, reduction="sum") / total
