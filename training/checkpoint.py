"""The state of a run on disk: written whole or not at all."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

from dual_encoder.errors import brief
from dual_encoder.files import fsync
from training.model import TrainingError

CHECKPOINT = "checkpoint.pt"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a crash or a full disk leaves the last good one. Raises TrainingError."""
    import torch

    unfinished = path.with_suffix(".tmp")
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        fsync(path.parent)
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
        unfinished.unlink(missing_ok=True)
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = getattr(cause, "strerror", None) or brief(cause)
        raise TrainingError(f"could not write {path}: {reason}; the last good checkpoint is kept") from None


def load_checkpoint(path: Path, architecture: dict[str, Any]) -> dict[str, Any]:
    """Raises TrainingError: not a checkpoint, or one of another architecture."""
    import torch

    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = state["architecture"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise TrainingError(f"{path} cannot be read as a checkpoint ({type(error).__name__}): remove it") from None
    if found != architecture:
        raise TrainingError(f"{path} is a checkpoint of another architecture: choose another `out` or remove it")
    return state
