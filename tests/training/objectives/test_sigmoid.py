"""The sigmoid loss equals open_clip's, adds up over rows, and leaves out what is also true."""

from __future__ import annotations

import torch
from open_clip.loss import SigLipLoss

from training.objectives.sigmoid import sigmoid

Vectors = tuple[torch.Tensor, torch.Tensor]
SCALE, BIAS = torch.tensor(10.0, dtype=torch.float64), torch.tensor(-5.0, dtype=torch.float64)


def test_equals_open_clip(vectors: Vectors) -> None:
    torch.testing.assert_close(sigmoid(*vectors, SCALE, BIAS), SigLipLoss()(*vectors, SCALE, BIAS))


def test_rows_add_up(vectors: Vectors) -> None:
    parts = [sigmoid(*vectors, SCALE, BIAS, rows=slice(start, start + 3)) for start in (0, 3)]
    torch.testing.assert_close(sum(parts), sigmoid(*vectors, SCALE, BIAS))


def test_what_is_also_true_is_left_out_and_what_is_false_counts(vectors: Vectors) -> None:
    images, texts = vectors
    whole = sigmoid(images, texts, SCALE, BIAS)
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[1, 2] = True
    logit = SCALE * images[1] @ texts[2] + BIAS
    left_out = sigmoid(images, texts, SCALE, BIAS, true_texts=mask)
    torch.testing.assert_close(whole - left_out, torch.nn.functional.softplus(logit) / 6)
    extra = sigmoid(images, texts, SCALE, BIAS, false_texts=texts[:1])
    added = torch.nn.functional.softplus(SCALE * images @ texts[0] + BIAS).sum() / 6
    torch.testing.assert_close(extra - whole, added)
