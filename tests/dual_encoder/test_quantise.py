"""8-bit towers: close to the whole ones at every length and batch size; clear words where there are none."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from crossmodal.examples import examples_of
from dual_encoder import DualEncoder, ModelError, load_encoder
from dual_encoder.files import sha256
from dual_encoder.image import open_image
from dual_encoder.openvino_runtime import int8_path
from dual_encoder.quantise import write_int8
from dual_encoder.record import read_record, write_record

BUNDLED = Path(__file__).parents[2] / "dual_encoder/tiny"
CONTEXT = 77


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from training.scenes import write_scenes

    return write_scenes(tmp_path_factory.mktemp("scenes"), 40, seed=3)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, scenes: Path, encoder: DualEncoder) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "model"
    shutil.copytree(BUNDLED, folder)
    examples = examples_of(scenes)
    write_int8(folder, encoder.token_rows(examples.texts), map(encoder.preprocess, examples.images), CONTEXT, "largest")
    facts = read_record(folder / "model.json")
    facts["files"] |= {path.name: sha256(path) for path in folder.glob("*.int8.*")}
    write_record(folder / "model.json", facts)
    return folder


def test_close_to_the_whole_model(directory: Path, scenes: Path, encoder: DualEncoder) -> None:
    small = load_encoder(str(directory), precision="int8", threads=2)
    assert (small.runtime.name, small.runtime.precision) == ("openvino", "int8")
    texts = ["", "a red star", "红色星形", "a blue circle above a red square " * 4, "word " * 100]
    pictures = [open_image(path.read_bytes()).image for path in sorted(scenes.parent.rglob("*.jpg"))[:5]]
    assert len(pictures) == 5
    for count in (1, 2, 5):
        assert (small.encode_texts(texts[:count]) * encoder.encode_texts(texts[:count])).sum(1).min() > 0.98
        assert (small.encode_images(pictures[:count]) * encoder.encode_images(pictures[:count])).sum(1).min() > 0.98
    together, alone = small.encode_texts(texts), np.concatenate([small.encode_texts([text]) for text in texts])
    assert (together * alone).sum(1).min() > 0.9999  # scales are fixed: who shares a batch is nothing to a text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"tiny has no 8-bit towers; .* --int8"),
        ({"runtime": "torch"}, "leave runtime and device out"),
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
    with pytest.raises(ModelError, match=r"image\.int8\.xml: content changed"):
        load_encoder(str(folder), precision="int8")


def test_nothing_to_scale_by(tmp_path: Path, encoder: DualEncoder) -> None:
    shutil.copyfile(BUNDLED / "text.onnx", tmp_path / "text.onnx")
    with pytest.raises(ModelError, match="there is no text among them"):
        write_int8(tmp_path, [], [], CONTEXT, "largest")
