"""CLIP's image tower, with no more of its last block than the class token needs.

What the other places become there is not read by anybody: they give their keys and values, and are left out of the
rest, three quarters of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def encode_image(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (n, 3, H, W) of an open_clip model -> unnormalised image features (n, dim), as it gives them itself."""
    tower = model.visual
    if not _reads_class_token(tower):
        return model.encode_image(pixels)  # type: ignore[no-any-return]
    *blocks, last = tower.transformer.resblocks
    x = tower._embeds(pixels)
    for block in blocks:
        x = block(x)
    every, x = last.ln_1(x), x[:, :1]
    x = x + last.ls_1(last.attention(every[:, :1], every, every))
    x = x + last.ls_2(last.mlp(last.ln_2(x)))
    pooled: torch.Tensor = tower._pool(x)[0]
    return pooled if tower.proj is None else pooled @ tower.proj


def _reads_class_token(tower: Any) -> bool:
    """Whether that is all that this tower reads of its last block, and the block one that is known here."""
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    return (
        type(tower) is VisionTransformer
        and tower.attn_pool is None
        and tower.pool_type == "tok"
        and tower.transformer.batch_first
        and type(tower.transformer.resblocks[-1]) is ResidualAttentionBlock
    )
