"""CLIP's text tower over only the positions that can matter.

The tower is causal and reads its answer at the end-of-text token, so whatever follows that token cannot change it:
a batch may be cut at its longest text. Where a tower looks both ways or pools elsewhere, the full context is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dual_encoder.packing import LARGEST

if TYPE_CHECKING:
    import torch


def is_cuttable(model: Any) -> bool:
    """Whether cutting after the end of text is exact for this open_clip model."""
    tower = getattr(model, "text", model)
    return (
        getattr(tower, "attn_mask", None) is not None
        and getattr(tower, "cls_emb", None) is None
        and not getattr(tower, "use_pad_mask", False)
        and getattr(tower, "pool_type", getattr(tower, "text_pool_type", None)) in ("argmax", "eos")
        and hasattr(tower, "token_embedding")
        and getattr(tower, "eos_id", getattr(tower, "text_eos_id", None)) != 0  # what is cut and put back is 0
    )


def encode_text(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Token ids (n, length) of a cuttable model -> unnormalised text features (n, dim), length ≤ context length."""
    from open_clip.transformer import text_global_pool

    tower = getattr(model, "text", model)
    length = tokens.shape[1]
    x = tower.token_embedding(tokens) + tower.positional_embedding[:length]
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
    pool = getattr(tower, "pool_type", getattr(tower, "text_pool_type", "argmax"))
    end = getattr(tower, "eos_id", getattr(tower, "text_eos_id", None))
    return _project(tower, text_global_pool(x, tokens, pool, eos_token_id=end))


def encode_packed(model: Any, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Token ids and each one's position in its text, (rows, length), of a cuttable model -> (rows, length, dim).

    A row may hold several texts, one after the other; the features at a text's end are those of `encode_text`. The
    tower's attention must take a mask (rows, 1, length, length).
    """
    import torch

    tower = getattr(model, "text", model)
    place = torch.arange(tokens.shape[1], device=tokens.device)
    begins = place - positions  # where in the row its text does: no two texts of a row begin at one place
    sees = (begins[:, :, None] == begins[:, None, :]) & (place[None, :] <= place[:, None])
    mask = torch.where(sees, 0.0, float("-inf"))[:, None]
    x = tower.token_embedding(tokens) + tower.positional_embedding[positions]
    return _project(tower, tower.ln_final(tower.transformer(x, attn_mask=mask)))


def end_of_text(model: Any) -> int | str:
    """Which token a cuttable model reads its answer at: "largest", that of the largest id, else one of this id."""
    tower = getattr(model, "text", model)
    if getattr(tower, "pool_type", getattr(tower, "text_pool_type", "argmax")) == "argmax":
        return LARGEST
    return int(getattr(tower, "eos_id", None) or tower.text_eos_id)


def _project(tower: Any, x: torch.Tensor) -> torch.Tensor:
    projection = tower.text_projection
    if projection is None:
        return x
    return x @ projection if not callable(projection) else projection(x)  # type: ignore[no-any-return]
