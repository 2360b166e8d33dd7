"""Equal to open_clip's own transform; where the sides of a wide picture are left out, to one step of 8 bits."""

from __future__ import annotations

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from dual_encoder.preprocess import Preprocess

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
SIZES = [(64, 64), (300, 200), (200, 300), (97, 301), (500, 64), (1, 1), (2, 50), (224, 224), (225, 224), (640, 427)]


def picture(size: tuple[int, int]) -> Image.Image:
    noise = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_equals_open_clip(mode: str, interpolation: str) -> None:
    config = {"size": 64, "mean": MEAN, "std": STD, "interpolation": interpolation, "resize_mode": mode}
    theirs = image_transform_v2(PreprocessCfg(**config), is_train=False)
    ours = Preprocess.from_config(config)
    for size in SIZES:
        if mode == "longest" and max(size) / min(size) > 20:
            continue
        image = picture(size)
        wide = mode == "shortest" and size[0] > size[1]
        step = 1 / 255 / min(STD) if wide else 0
        got, expected = ours(image), theirs(image).numpy()
        np.testing.assert_allclose(got, expected, atol=step + 1e-5, err_msg=f"{mode} {size}")
        assert (abs(got - expected) > 1e-5).mean() < 1e-3, f"{mode} {size}"


def test_a_strip_is_not_blown_up() -> None:
    strip = Image.new("RGB", (60_000, 1), "red")
    assert Preprocess((64, 64), MEAN, STD)(strip).shape == (3, 64, 64)


def test_unknown_values_are_refused() -> None:
    with pytest.raises(ValueError, match="nearest"):
        Preprocess((64, 64), MEAN, STD, interpolation="nearest")
