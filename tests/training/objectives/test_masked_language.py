"""What is hidden, and that the picture helps to guess it."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from training.objectives.masked_language import mask_tokens, masked_language, new_head


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 8))
def test_hides_real_tokens_only_and_one_at_least(seed: int, length: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 50, (count, length + 4), generator=generator)
    tokens[:, 0], tokens[:, length + 1], tokens[:, length + 2 :] = 1, 2, 0
    masked, hidden = mask_tokens(tokens, 99, frozenset({0, 1, 2}), torch.Generator().manual_seed(seed))
    assert hidden.any(1).all()
    assert not hidden[:, 0].any()
    assert not hidden[:, length + 1 :].any()
    assert (masked[hidden] == 99).all()
    assert torch.equal(masked[~hidden], tokens[~hidden])


def test_about_fifteen_in_a_hundred() -> None:
    tokens = torch.full((500, 40), 7)
    _, hidden = mask_tokens(tokens, 99, frozenset({0}), torch.Generator().manual_seed(0))
    assert 0.13 < hidden.float().mean() < 0.17


def test_the_head_learns_from_the_picture_what_the_text_hides() -> None:
    """The hidden word is told by the picture alone: the loss falls far below guessing."""
    torch.manual_seed(0)
    head = new_head(16, 8, 12, heads=2)
    embedding, pictures = torch.nn.Embedding(12, 16), torch.randn(10, 3, 8)
    optimiser = torch.optim.Adam([*head.parameters(), *embedding.parameters()], 0.01)
    words = torch.arange(10) + 1
    tokens = torch.stack([torch.full((10,), 11), words], 1)
    hidden = torch.tensor([[False, True]]).expand(10, 2)
    first = last = 0.0
    for step in range(60):
        states = embedding(tokens.masked_fill(hidden, 0))
        loss = masked_language(head, states, pictures, tokens, hidden, total=10)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        first, last = (loss.item(), last) if step == 0 else (first, loss.item())
    assert first > 2
    assert last < 0.3
