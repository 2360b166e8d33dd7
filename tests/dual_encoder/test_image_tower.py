"""What is left out of the last block changes nothing, and only what nobody reads is left out."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch

from dual_encoder.image_tower import encode_image

VIT = {"image_size": 32, "layers": 3, "width": 64, "patch_size": 8, "head_width": 32}
TEXT = {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}


@pytest.mark.parametrize(
    ("options", "places"),
    [
        ({}, 1),
        ({"ls_init_value": 0.1, "final_ln_after_pool": True, "no_ln_pre": True}, 1),
        ({"pool_type": "avg"}, 17),
        ({"attentional_pool": True, "attn_pooler_heads": 2}, 17),
        ({"block_type": "custom", "qk_norm": True}, 17),
    ],
)
def test_the_last_block_computes_what_is_read_of_it(options: dict[str, Any], places: int) -> None:
    torch.manual_seed(0)
    model = open_clip.CLIP(embed_dim=16, vision_cfg={**VIT, **options}, text_cfg=TEXT).eval()
    pixels, seen = torch.randn(3, 3, 32, 32), []
    with torch.inference_mode():
        expected = model.encode_image(pixels)
        hook = model.visual.transformer.resblocks[-1].mlp.register_forward_hook(
            lambda _, x, __: seen.append(x[0].shape)
        )
        found = encode_image(model, pixels)
        hook.remove()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert seen == [(3, places, 64)]
