"""What an export takes along, and what it does where it does not fit the disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dual_encoder import ModelError, export
from dual_encoder.encoder import FORMAT, _runtime
from dual_encoder.export import _keep_others, export_model
from dual_encoder.files import staged
from dual_encoder.quantise import write_int8
from dual_encoder.reference import TINY

OLD = {"open_clip_model.safetensors": "weights", "text.onnx": "old", "image.onnx": "old", "text.int8.xml": "old",
       "text.int8.bin": "old", "image.int8.xml": "old", "image.int8.bin": "old", "model.json": "old"}  # fmt: skip
NEW = {"text.onnx": "new", "image.onnx": "new", "model.json": "new"}
AFTER = {"open_clip_model.safetensors": "weights", **NEW}


Limit = Callable[[int], AbstractContextManager[None]]


def written(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_in_place_of_an_older_export(tmp_path: Path) -> None:
    """What is not an export's comes along, and is not written to."""
    out, work = written(tmp_path / "out", {**OLD, "notes.txt": "mine"}), written(tmp_path / "work", NEW)
    (out / "more").mkdir()
    (out / "more" / "link").symlink_to("../notes.txt")
    _keep_others(out, work)
    assert (work / "more" / "link").readlink() == Path("../notes.txt")
    shutil.rmtree(out)
    shutil.rmtree(work / "more")
    assert read(work) == {**AFTER, "notes.txt": "mine"}


def test_a_model_that_is_replaced_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a training run that ends: its weights would lie beside the towers of those before."""
    out = tmp_path / "model"
    shutil.copytree(TINY, out)
    real = export.load_open_clip

    def load(*arguments: Any, **options: Any) -> Any:
        source = real(*arguments, **options)
        with staged(out) as folder:
            shutil.copytree(TINY, folder, dirs_exist_ok=True)
        return source

    monkeypatch.setattr(export, "load_open_clip", load)
    for name in ("_write_onnx", "_measure_parity"):  # take 20 s
        monkeypatch.setattr(export, name, lambda *_: {})
    with pytest.raises(ModelError, match=r"model was replaced while it was being read: export it again"):
        export_model(str(out), out)


def test_8_bit_towers_of_another_export_are_not_served(tmp_path: Path) -> None:
    """They lie there, but model.json does not name them."""
    folder = written(tmp_path / "model", OLD)
    facts: dict[str, Any] = {
        "format": FORMAT,
        "context_length": 77,
        "end_of_text": None,
        "files": dict.fromkeys(NEW, ""),
    }
    with pytest.raises(ModelError, match=r"model has no 8-bit towers; .* --int8"):
        _runtime(folder, "int8", facts, None, True)
    facts["files"] = dict.fromkeys(OLD, "")
    assert _runtime(folder, "int8", facts, None, True).precision == "int8"


def test_weights_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_most: Limit) -> None:
    """safetensors writes them in native code, and its error is no OSError."""
    for name in ("_write_onnx", "_measure_parity"):  # take 20 s
        monkeypatch.setattr(export, name, lambda *_: {})
    with at_most(5_000_000), pytest.raises(OSError, match=r"File too large.*open_clip_model\.safetensors"):
        export_model("tiny", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_8_bit_towers_that_do_not_fit(tmp_path: Path, at_most: Limit) -> None:
    """Neither is OpenVINO's."""
    (tmp_path / "text.onnx").symlink_to(TINY / "text.onnx")
    with at_most(100_000), pytest.raises(OSError, match=r"text\.int8\.xml"):
        write_int8(tmp_path, [np.array([49406, 49407])], [np.zeros((3, 64, 64), np.float32)], 77, "largest")
