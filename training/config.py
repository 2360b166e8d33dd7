"""What a training run is: a flat list of names, read from YAML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dual_encoder.encoder import wrong_device
from training.objectives import OBJECTIVES


class ConfigError(Exception):
    """A training configuration that cannot be used; the message names the key."""


class TrainConfig(BaseModel):
    """Paths are relative to the YAML file. docs/training.md says what each name means."""

    model_config = ConfigDict(extra="forbid")

    # What is trained, on what
    model: str
    data: Path
    out: Path
    validation: Path | None = None

    # How long, how fast
    steps: int = Field(gt=0)
    batch_size: int = Field(256, gt=1)
    micro_batch: int = Field(0, ge=0)
    captions_per_image: int = Field(1, ge=1)
    negatives_per_image: int = Field(0, ge=0)
    learning_rate: float = Field(1e-3, gt=0)
    layer_decay: float = Field(1.0, gt=0, le=1)
    weight_decay: float = Field(0.1, ge=0)
    warmup_steps: int = Field(100, ge=0)
    gradient_clip: float = Field(1.0, gt=0)
    ema: float = Field(0.0, ge=0, lt=1)

    # What is minimised
    objectives: dict[str, float] = {"info_nce": 1.0}
    hardness: float = Field(0.0, ge=0, le=1)
    max_logit_scale: float = Field(100.0, gt=1)
    clamp_patience: int = Field(2000, ge=0)
    teacher: str | None = None

    # What moves
    lock_image: bool = False
    lock_text: bool = False
    fresh_text: bool = False
    lora_rank: int = Field(0, ge=0)

    # What is seen
    crop: float = Field(1.0, gt=0, le=1)
    caption_choice: Literal["uniform", "length"] = "uniform"
    negative_choice: Literal["uniform", "reordered"] = "uniform"

    # On what machine
    seed: int = Field(0, ge=0, lt=2**31)
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    grad_checkpointing: bool = False
    workers: int = Field(1, ge=0)
    checkpoint_every: int = Field(200, gt=0)
    validate_every: int = Field(500, gt=0)
    log_every: int = Field(20, gt=0)

    @field_validator("device")
    @classmethod
    def _usable(cls, device: str) -> str:
        if wrong := wrong_device(device, "several GPUs are for torchrun"):
            raise ValueError(wrong)
        return device

    @field_validator("objectives")
    @classmethod
    def _known(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if name not in OBJECTIVES:
                raise ValueError(f"unknown objective {name!r}; choose from {', '.join(OBJECTIVES)}")
            if not 0 < weight < math.inf:
                raise ValueError(f"the weight of {name} must be above 0, and finite, not {weight}")
        if not weights:
            raise ValueError(f"at least one of {', '.join(OBJECTIVES)} is needed")
        return weights

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if "distillation" in self.objectives and not self.teacher:
            raise ValueError("objectives: distillation needs a `teacher`, a model reference")
        if "intra_modal" in self.objectives:
            if self.captions_per_image < 2 or not self.negatives_per_image:
                raise ValueError(
                    "objectives: intra_modal needs captions_per_image: 2 and negatives_per_image: 1 at least"
                )
            if not {"info_nce", "sigmoid"} & self.objectives.keys():
                raise ValueError("objectives: intra_modal looks at texts alone; it goes along with info_nce or sigmoid")
        if self.lock_image and self.lock_text:
            raise ValueError("lock_image and lock_text together leave nothing to train")
        if self.fresh_text and (self.lock_text or self.lora_rank):
            raise ValueError("fresh_text is a text tower that knows nothing yet: leave lock_text and lora_rank out")
        if self.lora_rank and (self.lock_image or self.lock_text):
            raise ValueError("lora_rank trains small additions to both towers: leave lock_image and lock_text out")
        return self


def read_config(path: Path, changes: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML file, and `name=value` changes to it. Raises ConfigError naming the key and what is allowed.

    Relative paths in the file are relative to it, those in the changes too.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a list of `name: value` lines is expected")
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise ConfigError(f"{change}: name=value is expected")
        try:
            values[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"{change}: the value is not YAML") from None
    try:
        config = TrainConfig(**values)
    except ValidationError as error:
        first = error.errors()[0]
        allowed = f"; known keys: {', '.join(TrainConfig.model_fields)}" if first["type"] == "extra_forbidden" else ""
        place = "".join(f"{part}: " for part in first["loc"])
        raise ConfigError(f"{path}: {place}{first['msg'].removeprefix('Value error, ')}{allowed}") from None
    except TypeError as error:  # a key that is not a string
        raise ConfigError(f"{path}: {error}") from None
    base = path.parent
    found: dict[str, object] = {"data": base / config.data, "out": base / config.out}
    if config.validation:
        found["validation"] = base / config.validation
    for name in ("model", "teacher"):  # a reference, or something that lies beside the recipe
        value = getattr(config, name)
        if value and value != "tiny" and (base / value).exists():
            found[name] = str(base / value)
    return config.model_copy(update=found)
