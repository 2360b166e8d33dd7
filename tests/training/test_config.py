"""Recipes: what is wrong is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from training.config import ConfigError, read_config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stepz": 3}, "stepz: .*known keys: model"),
        ({"batch_size": 0}, "batch_size: .*greater than 1"),
        ({"precision": "int3"}, "precision: .*'auto', 'fp32' or 'bf16'"),
        ({"steps": "x"}, "steps"),
        ({"device": "meta"}, "device: 'meta' is not one of auto, cpu, cuda"),
        ({"device": "cuda:0,cuda:1"}, "several GPUs are for torchrun"),
        ({"objectives": {"magic": 1}}, "unknown objective 'magic'; choose from info_nce"),
        ({"objectives": {"info_nce": 0}}, "weight of info_nce must be above 0"),
        ({"objectives": {"info_nce": float("inf")}}, "weight of info_nce must be above 0, and finite"),
        ({"objectives": {}}, "at least one of"),
        ({"objectives": {"distillation": 1}}, "needs a `teacher`"),
        ({"objectives": {"intra_modal": 1, "info_nce": 1}, "captions_per_image": 2}, "needs captions_per_image: 2 and"),
        ({"objectives": {"intra_modal": 1}, "captions_per_image": 2, "negatives_per_image": 1}, "along with info_nce"),
        ({"lock_image": True, "lock_text": True}, "nothing to train"),
        ({"lora_rank": 2, "lock_text": True}, "leave lock_image"),
        ({"fresh_text": True, "lock_text": True}, "fresh_text is a text tower that knows nothing yet"),
        ({"ema": 1}, "ema: .*less than 1"),
        ({"seed": -1}, "seed: .*greater than or equal to 0"),
        ({"seed": 20_261_125_210_000}, "seed: .*less than"),
    ],
)
def test_bad_keys(tmp_path: Path, recipe: Callable[..., Path], change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_config(recipe(tmp_path, **change))


@pytest.mark.parametrize("text", ["- a", "a: [", "\x00", "3: 4"])
def test_what_is_no_recipe(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        read_config(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_config(tmp_path / "none.yaml")


def test_changes_and_paths(tmp_path: Path, recipe: Callable[..., Path]) -> None:
    path = recipe(tmp_path)
    config = read_config(path, ["steps=9", "objectives={sigmoid: 2}", "out=elsewhere"])
    assert (config.steps, config.objectives, config.out) == (9, {"sigmoid": 2.0}, tmp_path / "elsewhere")
    assert config.model == str(tmp_path / "model.json")
    (tmp_path / "tiny").mkdir()  # a run's `out`, perhaps
    assert read_config(path, ["model=tiny"]).model == "tiny"
    with pytest.raises(ConfigError, match="steps: name=value"):
        read_config(path, ["steps"])
