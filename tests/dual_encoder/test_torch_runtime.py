"""Batches in a few padded shapes give what whole ones do; a GPU's way of running them, on a CPU."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import open_clip
import pytest
from PIL import Image

from dual_encoder import DualEncoder, ModelError, buckets, load_encoder
from dual_encoder.open_clip_model import OpenClipModel, load_open_clip
from dual_encoder.reference import parse_reference
from dual_encoder.torch_runtime import TorchRuntime

SMALL_VIT = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "padded-causal": {"embed_dim": 32, "vision_cfg": SMALL_VIT, "text_cfg": TEXT},
    "padded-both-ways": {"embed_dim": 32, "vision_cfg": SMALL_VIT, "custom_text": True,
                         "text_cfg": {**TEXT, "no_causal_mask": True, "pool_type": "last"}},
    "padded-convolutional": {"embed_dim": 32, "text_cfg": TEXT, "vision_cfg": {
        "image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}},
}  # fmt: skip


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OpenClipModel:
    folder = tmp_path_factory.mktemp("architectures")
    (folder / f"{request.param}.json").write_text(json.dumps(ARCHITECTURES[request.param]))
    open_clip.add_model_config(folder)
    return load_open_clip(parse_reference(request.param))


def texts(count: int) -> list[np.ndarray]:
    """As many rows of tokens, of 2 to 20, each with an end of text."""
    rng = np.random.default_rng(count)
    rows = [rng.integers(1, 49_000, rng.integers(2, 21)) for _ in range(count)]
    return [np.append(row[:-1], 49_407) for row in rows]


def pixels(count: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_padded_batches_give_what_whole_ones_do(source: OpenClipModel) -> None:
    whole, padded = TorchRuntime(source, "cpu", "auto"), TorchRuntime(source, "cpu", "fp32", padded=True)
    for count in (1, 3, 67, 3):  # the last in a buffer where other rows were
        np.testing.assert_allclose(padded.encode_rows(texts(count)), whole.encode_rows(texts(count)), atol=2e-5)
        cropped = pixels(count)
        normalised = source.preprocess.normalise(cropped)
        expected = whole.encode_pixels(normalised)
        np.testing.assert_allclose(padded.encode_pixels(normalised), expected, atol=2e-5)
        np.testing.assert_allclose(padded.encode_pixels(cropped), expected, atol=2e-5)
    shapes = {tuple(each.shape) for each in padded._launch._buffers.values()}  # type: ignore[attr-defined]
    assert {shape[0] for shape in shapes if len(shape) == 4} == {1, 4, 64}
    assert {shape for shape in shapes if len(shape) == 2} <= {(n, m) for n in (1, 4, 256) for m in buckets.lengths(20)}


def test_pixels_are_normalised_alike_on_either_side(encoder: DualEncoder) -> None:
    """A GPU takes bytes and a CPU numbers; each takes the other's too."""
    source = load_open_clip(parse_reference("tiny"))
    there = DualEncoder(
        reference="tiny", fingerprint="", dim=source.dim, logit_scale=1.0, preprocess=source.preprocess,
        tokenizer=encoder.tokenize, runtime=TorchRuntime(source, "cpu", "fp32", padded=True),
    )  # fmt: skip
    here = load_encoder("tiny", runtime="torch", device="cpu")
    side = encoder.image_size[0]
    pictures = [Image.fromarray(each) for each in pixels(3, side + 20)]
    assert [each.prepare(pictures[0]).dtype for each in (there, here)] == [np.uint8, np.float32]
    expected = here.encode_images(pictures)
    np.testing.assert_allclose(there.encode_images(pictures), expected, atol=1e-5)
    cropped = np.stack([there.prepare(each) for each in pictures])
    np.testing.assert_array_equal(here.encode_pixels(cropped), expected)
    assert here.encode_pixels(cropped[:0]).shape == (0, here.dim)


def test_half_precision_is_for_a_gpu() -> None:
    with pytest.raises(ModelError, match="fp16 is for a GPU"):
        load_encoder("tiny", runtime="torch", device="cpu", precision="fp16")
