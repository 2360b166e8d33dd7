"""What a model's directory says of its own files, and whether they are still so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dual_encoder.errors import ModelError
from dual_encoder.files import sha256

MODEL_JSON: Final = "model.json"  # of an export: facts, its files' SHA-256s, and last its own
_TRAINING_JSON: Final = "training.json"  # of a trained model, the same


def write_record(path: Path, facts: Mapping[str, Any]) -> None:
    """Write facts as JSON, with a SHA-256 of them."""
    text = json.dumps({**facts, "sha256": _digest(facts)}, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", "utf-8")


def read_record(path: Path) -> dict[str, Any]:
    """What was written, without the SHA-256, which need not be there. Raises ModelError."""
    try:
        facts: dict[str, Any] = json.loads(path.read_bytes())
        told = facts.pop("sha256", None)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise ModelError(f"{path}: not a record of a model: {error}") from None
    if told is not None and told != _digest(facts):
        raise ModelError(f"{path}: content changed since it was written (SHA-256 differs)")
    return facts


def check_files(directory: Path, files: Mapping[str, str]) -> None:
    """Compare files with the SHA-256s that are told of them. Raises ModelError for the first that differs."""
    for name, expected in files.items():
        try:
            found = sha256(directory / name)
        except OSError as error:
            raise ModelError(f"{directory / name}: {error.strerror}") from None
        if found != expected:
            raise ModelError(f"{directory / name}: content changed since it was written (SHA-256 differs)")


def check_weights(directory: Path) -> None:
    """Check what torch reads of a directory: all but towers, as far as one of the records tells. Raises ModelError."""
    for path in (directory / MODEL_JSON, directory / _TRAINING_JSON):
        if path.is_file():
            files = read_record(path).get("files", {})
            check_files(directory, {name: each for name, each in files.items() if not is_of_tower(name)})
            return


def is_of_tower(name: str) -> bool:
    """Whether a file is a tower, or a part of one, of an export."""
    return name.startswith(("text.onnx", "image.onnx", "text.int8.", "image.int8."))


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
