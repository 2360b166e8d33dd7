"""8-bit towers: close to the whole ones at every length and batch size; clear words where there are none."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dual_encoder import DualEncoder, ModelError, load_encoder
from dual_encoder.quantise import TOWERS, int8_path, write_int8

BUNDLED = Path(__file__).parents[2] / "dual_encoder/tiny"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "model"
    shutil.copytree(BUNDLED, folder)
    write_int8(folder)
    return folder


def test_towers_are_smaller(directory: Path) -> None:
    for tower in TOWERS:
        assert int8_path(directory, tower).is_file()
    assert b"int8" not in (directory / "text.onnx").read_bytes()[:100]


def test_close_to_the_whole_model(directory: Path, encoder: DualEncoder) -> None:
    small = load_encoder(str(directory), precision="int8", streams=2, threads=2)
    assert (small.runtime.name, small.runtime.precision) == ("onnxruntime", "int8")
    texts = ["", "a red star", "红色星形", "a blue circle above a red square " * 4, "word " * 100]
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((5, 3, *small.image_size), dtype=np.float32)
    for count in (1, 2, 5):
        assert (small.encode_texts(texts[:count]) * encoder.encode_texts(texts[:count])).sum(1).min() > 0.97
        assert (small.encode_pixels(pixels[:count]) * encoder.encode_pixels(pixels[:count])).sum(1).min() > 0.97
    together, alone = small.encode_texts(texts), np.concatenate([small.encode_texts([text]) for text in texts])
    assert (together * alone).sum(1).min() > 0.97  # activations are scaled a batch at a time


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"tiny has no 8-bit towers; .* --int8"),
        ({"runtime": "openvino"}, "leave runtime and device out"),
        ({"device": "cuda"}, "leave runtime and device out"),
    ],
)
def test_what_cannot_be(options: dict[str, str], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        load_encoder("tiny", precision="int8", **options)


def test_a_cut_file_is_named(directory: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(directory, folder)
    path = int8_path(folder, "image")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"image\.int8\.onnx cannot be loaded"):
        load_encoder(str(folder), precision="int8")
