"""What a GPU would make of a JPEG is what the CPU makes of it, within a bound; the device here is the CPU.

torchvision then decodes with libjpeg, so that only nvJPEG itself is left out.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dual_encoder import DualEncoder
from dual_encoder.device_jpegs import DeviceJpegs, crop, reduced
from dual_encoder.image import open_image
from dual_encoder.preprocess import Preprocess

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
SIZES = [(64, 64), (300, 200), (200, 300), (97, 301), (500, 64), (16, 320), (320, 16), (640, 427), (63, 65), (448, 600)]


def photo(size: tuple[int, int], seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Coarse and fine detail, as of a photograph."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = rng.normal(0, 8, (size[1], size[0], 1))
    return Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).convert(mode)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90, **options)
    return out.getvalue()


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize(("interpolation", "side"), [("bicubic", (64, 64)), ("bilinear", (48, 72))])
def test_the_crop_is_the_same_to_five_of_255(mode: str, interpolation: str, side: tuple[int, int]) -> None:
    preprocess = Preprocess(side, MEAN, STD, interpolation, mode, fill_color=7)
    for size in SIZES:
        noise = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)  # the worst
        for image, most in ((photo(size), 5), (Image.fromarray(noise), 25)):
            expected = preprocess.crop(image)
            got = crop(torch.from_numpy(np.array(image)).permute(2, 0, 1), preprocess).numpy()
            assert (got.shape, got.dtype) == (expected.shape, np.uint8)
            difference = abs(got.astype(int) - expected)
            assert difference.max() <= most, f"{size}"
            assert difference.mean() < 0.5, f"{size}"


@pytest.mark.parametrize("size", [(2000, 1500), (1111, 1999), (900, 900), (450, 449), (60, 40)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg(size: tuple[int, int], mode: str, encoder: DualEncoder) -> None:
    data = jpeg(photo(size, mode=mode))
    side = max(encoder.image_size)
    found = DeviceJpegs(encoder.preprocess, side, "cpu")(data)
    assert found is not None
    there, pixels = found
    here = open_image(data, side)
    assert (there.width, there.height, there.image.size) == (here.width, here.height, here.image.size)
    expected = encoder.preprocess.crop(here.image)
    assert abs(pixels.astype(int) - expected).mean() < 1
    vectors = encoder.encode_pixels(np.stack([pixels, expected]))
    assert vectors[0] @ vectors[1] > 0.999


def test_reduced_as_draft_reduces() -> None:
    for side in (100, 127, 128, 256):
        for width in (1023, 1025):
            data = jpeg(photo((width, 1024)))
            picture = torch.from_numpy(np.array(open_image(data).image)).permute(2, 0, 1)
            assert tuple(reduced(picture, 2 * side).shape[:0:-1]) == open_image(data, side).image.size


def test_what_is_left_to_the_cpu(encoder: DualEncoder) -> None:
    decode = DeviceJpegs(encoder.preprocess, 96, "cpu")
    image = photo((200, 100))
    turned = Image.Exif()
    turned[0x0112] = 6
    png = io.BytesIO()
    image.save(png, "PNG")
    whole = jpeg(image)
    for data in (b"", whole[:-200], whole + b"more", jpeg(photo((900, 40))), jpeg(photo((15, 15))), jpeg(image, exif=turned), jpeg(image.convert("CMYK")),
                 png.getvalue(), b"\xff\xd8 not one \xff\xd9"):  # fmt: skip
        assert decode(data) is None
    assert decode(jpeg(image, exif=Image.Exif(), progressive=True)) is not None
    damaged = whole[:300] + b"\xff\xc4\x00\x05\xff\xff\xff" + whole[307:]
    assert decode(damaged) is None or decode(damaged)[1].shape == (*encoder.image_size, 3)  # type: ignore[index]


def test_many_threads_get_their_own(encoder: DualEncoder) -> None:
    decode = DeviceJpegs(encoder.preprocess, 96, "cpu")
    files = [jpeg(photo((120 + 2 * number, 130), number)) for number in range(40)]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(decode, files))
    for number, found in enumerate(together):
        assert found is not None
        assert found[0].width == 120 + 2 * number


def test_a_device_that_never_works_is_given_up(encoder: DualEncoder, capsys: pytest.CaptureFixture[str]) -> None:
    decode = DeviceJpegs(encoder.preprocess, 96, "cpu")
    asked = 0

    def fails(_: object) -> Any:
        nonlocal asked
        asked += 1
        raise RuntimeError("nvjpeg is not there\nand more")

    decode._decode = fails
    assert [decode(jpeg(photo((120, 130)))) for _ in range(20)] == [None] * 20
    assert asked == 8
    assert (
        capsys.readouterr().err == "warning: JPEGs are decoded on the CPU from here on: nvjpeg is not there and more\n"
    )
