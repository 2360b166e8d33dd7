"""Small models and few scenes to train them on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.config import TrainConfig, read_config
from training.scenes import write_scenes

_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "resnet": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 32},
        "text_cfg": {**_TEXT, "layers": 1},
    },
    "vit": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": _TEXT,
    },
    "coca": {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "attentional_pool": True,
            "attn_pooler_heads": 2, "output_tokens": True,
        },
        "text_cfg": {**_TEXT, "context_length": 76, "layers": 1, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1,
                           "attn_pooler_heads": 2},
        "custom_text": True,
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 scenes."""
    return write_scenes(tmp_path_factory.mktemp("data"), 64, 0).parent


@pytest.fixture
def recipe(data: Path) -> Callable[..., Path]:
    """`recipe(folder, architecture="resnet", **keys)`: the path of a YAML file."""

    def write(folder: Path, architecture: str = "resnet", **changes: object) -> Path:
        folder.mkdir(exist_ok=True)
        (folder / "model.json").write_text(json.dumps(ARCHITECTURES[architecture]))
        values = {"model": "model.json", "data": str(data), "out": "run", "steps": 6, "batch_size": 16, "workers": 0,
                  "precision": "fp32", "warmup_steps": 2, "checkpoint_every": 3, "log_every": 1, **changes}  # fmt: skip
        path = folder / "recipe.yaml"
        path.write_text(json.dumps(values))
        return path

    return write


@pytest.fixture
def config(recipe: Callable[..., Path], tmp_path: Path) -> Callable[..., TrainConfig]:
    """`config(architecture="resnet", **keys)`, in the test's own folder."""
    return lambda architecture="resnet", **changes: read_config(recipe(tmp_path, architecture, **changes))
