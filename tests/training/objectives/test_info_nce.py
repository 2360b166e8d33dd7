"""InfoNCE: open_clip's value, its closed-form gradient, and what is nobody's negative."""

from __future__ import annotations

import pytest
import torch
from open_clip.loss import ClipLoss

from training.objectives.info_nce import info_nce

Vectors = tuple[torch.Tensor, torch.Tensor]
SCALE = torch.tensor(7.0, dtype=torch.float64)


def test_equals_open_clip(vectors: Vectors) -> None:
    torch.testing.assert_close(info_nce(*vectors, SCALE), ClipLoss()(*vectors, SCALE))


def test_has_its_closed_form_gradient() -> None:
    """∂L/∂H_t = −(1/τ)(∂sim⁺ − Σ softmax · ∂sim⁻), where sim is the cosine of vectors of any length."""
    torch.manual_seed(1)
    images, hidden = (torch.randn(6, 4, dtype=torch.float64) for _ in range(2))
    hidden.requires_grad_()
    unit = torch.nn.functional.normalize
    info_nce(unit(images, dim=1), unit(hidden, dim=1), SCALE).backward()

    u, v = unit(images, dim=1), unit(hidden.detach(), dim=1)
    # ∂ cos(u_i, h_t) / ∂ h_t = (u_i − cos · v_t) / |h_t|: (t, i, dim)
    cosine = u @ v.T
    slope = (u[None] - cosine.T[:, :, None] * v[:, None]) / hidden.detach().norm(dim=1)[:, None, None]
    expected = torch.zeros_like(hidden)
    for t in range(6):
        to_images = (SCALE * cosine[:, t]).softmax(0)
        expected[t] -= SCALE * (slope[t, t] - (to_images[:, None] * slope[t]).sum(0)) / 12
        for i in range(6):  # the texts that picture i is compared with
            to_texts = (SCALE * cosine[i]).softmax(0)
            expected[t] -= SCALE * ((i == t) * slope[t, t] - to_texts[t] * slope[t, i]) / 12
    torch.testing.assert_close(hidden.grad, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(hidden.grad, expected, atol=1e-12, rtol=1e-9)


def test_rows_add_up(vectors: Vectors) -> None:
    parts = [info_nce(*vectors, SCALE, rows=slice(start, start + 2), hardness=0.3) for start in (0, 2, 4)]
    torch.testing.assert_close(sum(parts), info_nce(*vectors, SCALE, hardness=0.3))


def test_what_is_also_true_is_no_negative(vectors: Vectors) -> None:
    """Leaving pair 5 out of row 0's and column 0's comparison equals comparing without it."""
    images, texts = vectors
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[0, 5] = mask[5, 0] = True
    masked = info_nce(images, texts, SCALE, rows=slice(0, 1), true_texts=mask[:1], true_images=mask[:1])
    without = info_nce(images[:5], texts[:5], SCALE, rows=slice(0, 1)) * 5 / 6
    torch.testing.assert_close(masked, without)
    own = torch.eye(6, dtype=torch.bool)  # a picture's own caption stays its positive
    torch.testing.assert_close(info_nce(images, texts, SCALE, true_texts=own), info_nce(images, texts, SCALE))


def test_written_negatives_are_compared_with_by_pictures_alone(vectors: Vectors) -> None:
    images, texts = vectors
    false = torch.nn.functional.normalize(images + 0.1, dim=1)[:2].requires_grad_()
    loss = info_nce(images, texts, SCALE, false_texts=false)
    assert loss > info_nce(images, texts, SCALE)
    loss.backward()
    every = torch.cat([texts, false.detach()])
    share = (SCALE * images @ every.T).softmax(1)[:, 6:]
    torch.testing.assert_close(false.grad, SCALE * share.T @ images / 12)


@pytest.mark.parametrize("hardness", [0.5, 1.0])
def test_hard_negatives_weigh_more_and_one_on_average(vectors: Vectors, hardness: float) -> None:
    images, texts = vectors
    logits = SCALE * images @ texts.T
    weights = (hardness * logits).exp()
    weights.fill_diagonal_(0)
    weights = weights / weights.sum(1, keepdim=True) * 5
    weights.fill_diagonal_(1)
    exp = weights * logits.exp()
    expected = -(exp.diagonal() / exp.sum(1)).log().mean()
    other = info_nce(
        texts, images, SCALE, hardness=hardness
    )  # both ways in one figure: the other way round is the same
    found = info_nce(images, texts, SCALE, hardness=hardness)
    torch.testing.assert_close(found, other)
    columns = (hardness * logits.T).exp()
    columns.fill_diagonal_(0)
    columns = columns / columns.sum(1, keepdim=True) * 5
    columns.fill_diagonal_(1)
    back = columns * logits.T.exp()
    torch.testing.assert_close(found, (expected - (back.diagonal() / back.sum(1)).log().mean()) / 2)
