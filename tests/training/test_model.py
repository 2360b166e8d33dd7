"""Students are built whole."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from training.config import TrainConfig
from training.model import _build, new_student, parameter_groups

COCA = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8,
                   "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {"context_length": 76, "vocab_size": 512, "width": 32, "heads": 2, "layers": 1, "embed_cls": True,
                 "output_tokens": True},
    "multimodal_cfg": {"context_length": 76, "vocab_size": 512, "width": 32, "heads": 2, "layers": 1,
                       "attn_pooler_heads": 2},
    "custom_text": True,
}  # fmt: skip


def test_no_weight_is_what_memory_happened_to_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.empty

    def dirty(*size: Any, **options: Any) -> torch.Tensor:
        tensor = real(*size, **options)
        return tensor.fill_(1e36) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", dirty)
    weights = _build(COCA).state_dict()
    assert [name for name, value in weights.items() if value.is_floating_point() and value.abs().max() > 1e3] == []


def test_a_fresh_text_tower_beside_a_picture_tower_that_is_kept(config: Callable[..., TrainConfig]) -> None:
    whole, fresh = (new_student(config(model="tiny", fresh_text=wanted)).model.state_dict() for wanted in (False, True))
    kept = {name for name in whole if torch.equal(whole[name], fresh[name])}
    assert kept >= {name for name in whole if name.startswith("visual.")}
    assert not kept & {"token_embedding.weight", "positional_embedding", "text_projection", "logit_scale"}


def test_embeddings_of_timm_are_not_decayed() -> None:
    tower = torch.nn.Module()
    for name, shape in (("pos_embed", (1, 5, 4)), ("cls_token", (1, 1, 4)), ("proj", (4, 4))):
        tower.register_parameter(name, torch.nn.Parameter(torch.zeros(shape)))
    groups = parameter_groups(tower, 1e-3, 0.1, 1.0)
    assert [parameter.shape for group in groups if group["weight_decay"] for parameter in group["params"]] == [(4, 4)]
