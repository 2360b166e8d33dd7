"""What is served is what was exported: a bit that flips, in the export or in what was compiled of it, is found."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from dual_encoder import ModelError, load_encoder
from dual_encoder.files import sha256
from dual_encoder.record import read_record, write_record
from dual_encoder.reference import TINY

SERVED = ("image.onnx", "model.json", "preprocess.json", "text.onnx", "tokenizer.json")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `tiny`, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def flip(path: Path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def blobs(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache/crossmodal/openvino").glob("*/*.blob"))


@pytest.mark.parametrize("name", SERVED)
def test_a_flipped_bit_and_a_missing_file(model: Path, name: str) -> None:
    path = model / name
    whole = path.read_bytes()
    for at in (0.0, 0.3, 1.0):
        flip(path, at)
        with pytest.raises(
            ModelError, match=rf"{name}: (content changed since it was written|not a record of a model)"
        ):
            load_encoder(str(model), device="cpu")
        path.write_bytes(whole)
    if name == "model.json":
        return  # without it a directory is none that was exported
    path.unlink()
    with pytest.raises(ModelError, match=rf"{name}: No such file"):
        load_encoder(str(model), device="cpu")


def test_what_was_compiled(model: Path, tmp_path: Path) -> None:
    """It serves the next start, is compiled again where it has changed, and goes when its model does."""

    def vector(verify: bool = True) -> list[float]:
        encoder = load_encoder(str(model), device="cpu", threads=1, verify=verify)
        return encoder.encode_texts(["a red star"])[0].tolist()

    before = vector()
    kept = blobs(tmp_path)
    assert len(kept) == 2
    stamps = [path.stat().st_mtime_ns for path in kept]
    assert vector() == before
    assert [path.stat().st_mtime_ns for path in kept] == stamps
    for path in kept:
        for at in (0.5, 0.9):
            flip(path, at)
        assert vector() == before
        assert path.stat().st_mtime_ns not in stamps
    for path in kept:  # a kill before it was noted
        (path.parent / "compiled.json").unlink()
    assert vector() == before
    for path in kept:  # is seen unread, too
        path.write_bytes(path.read_bytes()[:-1000])
    assert vector(verify=False) == before
    shutil.rmtree(model)
    shutil.copytree(TINY, tmp_path / "other")
    load_encoder(str(tmp_path / "other"), device="cpu")
    assert len(blobs(tmp_path)) == 2


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert load_encoder("tiny", device="cpu").encode_texts(["a"]).shape == (1, 256)


def test_who_has_no_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    with pytest.raises(ModelError, match="set XDG_CACHE_HOME"):
        load_encoder("tiny", device="cpu")


def test_another_model_of_the_same_second_and_size(model: Path, tmp_path: Path) -> None:
    """OpenVINO alone would serve what it had compiled of the first."""
    before = load_encoder(str(model), device="cpu").encode_texts(["a red star"])
    path, stamp = model / "text.onnx", (model / "text.onnx").stat()
    content = path.read_bytes()
    at = int(0.97 * len(content))  # beyond the embeddings, of which most are not used
    path.write_bytes(content[:at] + bytes(1024) + content[at + 1024 :])
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    facts = read_record(model / "model.json")
    facts["files"]["text.onnx"] = sha256(path)
    write_record(model / "model.json", facts)
    after = load_encoder(str(model), device="cpu").encode_texts(["a red star"])
    assert np.abs(before - after).max() > 0
    assert len(blobs(tmp_path)) == 2
