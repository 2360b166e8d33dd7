"""A caption against its picture's other captions and negatives: the formula, what is true all the same, the order."""

from __future__ import annotations

import pytest
import torch

from training.objectives.intra_modal import intra_modal

SCALE = torch.tensor(10.0, dtype=torch.float64)
FALSE = torch.zeros(2, 1, dtype=torch.bool)


@pytest.fixture
def texts(vectors: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Two pictures' captions (2, 2, 4) and negatives (2, 1, 4)."""
    by_picture = vectors[1].view(2, 3, 4)
    return by_picture[:, :2], by_picture[:, 2:]


def test_is_the_question_which_of_two_is_nearer(texts: tuple[torch.Tensor, torch.Tensor]) -> None:
    captions, negatives = texts
    near = (captions[:, 0] * captions[:, 1]).sum(1)[:, None]
    far = (captions * negatives).sum(2)
    expected = torch.nn.functional.softplus(SCALE * (far - near)).mean()
    torch.testing.assert_close(intra_modal(captions, negatives, SCALE, FALSE, 2), expected)


def test_rows_add_up(texts: tuple[torch.Tensor, torch.Tensor]) -> None:
    captions, negatives = texts
    parts = [intra_modal(captions[i : i + 1], negatives[i : i + 1], SCALE, FALSE[:1], 2) for i in range(2)]
    torch.testing.assert_close(sum(parts), intra_modal(captions, negatives, SCALE, FALSE, 2))


def test_a_negative_that_is_true_counts_for_nothing(texts: tuple[torch.Tensor, torch.Tensor]) -> None:
    captions, negatives = (part.clone().requires_grad_() for part in texts)
    scale = SCALE.clone().requires_grad_()
    loss = intra_modal(captions, negatives, scale, torch.tensor([[True], [False]]), 2)
    loss.backward()
    assert scale.grad is not None
    assert torch.isfinite(scale.grad)
    assert negatives.grad is not None
    assert captions.grad is not None
    assert not negatives.grad[0].any()
    assert not captions.grad[0].any()
    assert negatives.grad[1].any()


def test_captions_that_cannot_be_told_from_the_negative_are_pushed_off_it() -> None:
    """The plateau that written negatives alone do not leave: all three alike, and the gradient is none the less there."""
    generator = torch.Generator().manual_seed(1)
    one = torch.randn(4, dtype=torch.float64, generator=generator)
    texts = torch.stack([one, one, one + 0.01 * torch.randn(4, dtype=torch.float64, generator=generator)])
    texts = torch.nn.functional.normalize(texts, dim=1)[None].requires_grad_()
    loss = intra_modal(texts[:, :2], texts[:, 2:], SCALE, torch.zeros(1, 1, dtype=torch.bool), 1)
    (gradient,) = torch.autograd.grad(loss, texts)
    moved = torch.nn.functional.normalize((texts - 0.1 * gradient).detach(), dim=2)[0]
    before = texts.detach()[0]
    assert moved[0] @ moved[2] < before[0] @ before[2]
