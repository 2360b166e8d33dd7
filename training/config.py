"""What a training run is: a flat list of names, read from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class ConfigError(Exception):
    """A training configuration that cannot be used; the message names the key."""


class TrainConfig(BaseModel):
    """Paths are relative to the YAML file. `model` is an open_clip architecture or a JSON file with its config."""

    model_config = ConfigDict(extra="forbid")

    model: str
    data: Path
    out: Path
    steps: int = Field(gt=0)
    batch_size: int = Field(256, gt=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    warmup_steps: int = Field(100, ge=0)
    max_logit_scale: float = Field(100.0, gt=1)
    gradient_clip: float = Field(1.0, gt=0)
    seed: int = 0
    device: str = "auto"
    precision: Literal["fp32", "bf16"] = "bf16"
    workers: int = Field(1, ge=0)
    checkpoint_every: int = Field(200, gt=0)
    log_every: int = Field(20, gt=0)


def read_config(path: Path) -> TrainConfig:
    """Read a YAML file. Raises ConfigError naming the key and what is allowed."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a list of `name: value` lines is expected")
    try:
        config = TrainConfig(**values)
    except ValidationError as error:
        first = error.errors()[0]
        allowed = f"; known keys: {', '.join(TrainConfig.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}{allowed}") from None
    base = path.parent
    model = str(base / config.model) if config.model.endswith(".json") else config.model
    return config.model_copy(update={"data": base / config.data, "out": base / config.out, "model": model})
