"""Masked language modelling with sight: hidden tokens are guessed from the other tokens and from the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MASKED_SHARE = 0.15


def mask_token(tokenizer: Any) -> tuple[int, frozenset[int]]:
    """The id that hides a token, and those that are never hidden: padding, start and end. Raises ValueError."""
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is not None:  # a Hugging Face tokenizer
        if inner.mask_token_id is None:
            raise ValueError("masked_language needs a tokenizer with a mask token")
        return int(inner.mask_token_id), frozenset(inner.all_special_ids)
    # CLIP's vocabulary has no mask; the byte 0xFF, which no UTF-8 text contains, has a token all the same.
    return tokenizer.encoder[tokenizer.byte_encoder[0xFF]], frozenset(
        {0, tokenizer.sot_token_id, tokenizer.eot_token_id}
    )


def mask_tokens(
    tokens: torch.Tensor, mask_id: int, special: frozenset[int], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 (n, length) -> the same with 15 % of the real tokens hidden (at least one a text), and where.

    Every choice is hidden by `mask_id`; Devlin et al. (2019) leave some as they are because their encoder is used
    without masks later, which here it is anyway, in every other objective.
    """
    import torch

    real = torch.ones_like(tokens, dtype=torch.bool)
    for token in special:
        real &= tokens != token
    draw = torch.rand(tokens.shape, generator=generator).to(tokens.device).masked_fill(~real, 2.0)
    hidden = (draw < MASKED_SHARE) | ((draw == draw.min(1, keepdim=True).values) & real)
    return tokens.masked_fill(hidden, mask_id), hidden


def new_head(text_width: int, image_width: int, vocabulary: int, heads: int, layers: int = 1) -> Any:
    """The cross-attention head: token states attend to one another and to the picture. Only training has it."""
    from torch import nn

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image = nn.Linear(image_width, text_width)
            layer = nn.TransformerDecoderLayer(
                text_width, heads, 4 * text_width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            self.decoder = nn.TransformerDecoder(layer, layers, nn.LayerNorm(text_width))
            self.vocabulary = nn.Linear(text_width, vocabulary)

        def forward(
            self, texts: torch.Tensor, images: torch.Tensor, padding: torch.Tensor, hidden: torch.Tensor
        ) -> torch.Tensor:
            states = self.decoder(texts, self.image(images), tgt_key_padding_mask=padding)
            return self.vocabulary(states[hidden])  # type: ignore[no-any-return]

    return Head()


def token_states(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """The text tower's states (n, length, width) before pooling."""
    tower = getattr(model, "text", model)
    length = tokens.shape[1]
    x = tower.token_embedding(tokens) + tower.positional_embedding[:length]
    return tower.ln_final(  # type: ignore[no-any-return]
        tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    )


def masked_language(
    head: Any,
    states: torch.Tensor,
    image_tokens: torch.Tensor,
    tokens: torch.Tensor,
    hidden: torch.Tensor,
    total: int,
    pad_id: int = 0,
) -> torch.Tensor:
    """Cross-entropy of the hidden tokens (Li et al., 2021, "Align before Fuse"): their part in the mean over `total`.

    `states` (n, length, width) are the text tower's over the masked text, `image_tokens` (n, patches, width) the image
    tower's last map; `tokens` int64 and `hidden` bool (n, length) say what was hidden.
    """
    from torch.nn.functional import cross_entropy

    logits = head(states, image_tokens, tokens == pad_id, hidden)
    return cross_entropy(logits.float(), tokens[hidden], reduction="sum") / total
