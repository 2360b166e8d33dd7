"""Pictures of the formats that are read become upright RGB; whatever is broken, or no picture, is told so."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dual_encoder.image import FORMATS, ImageError, open_image, to_rgb


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


RED = Image.new("RGB", (40, 30), (255, 0, 0))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_every_png_mode(mode: str) -> None:
    image = Image.new(mode, (40, 30), 1 if mode == "1" else 0)
    decoded = open_image(encoded(image))
    assert decoded.image.mode == "RGB"
    assert decoded.image.size == (40, 30)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV", "F", "La", "RGBa", "PA", "RGBX", "I"])
def test_every_other_mode(mode: str) -> None:
    assert to_rgb(Image.new(mode, (4, 3))).mode == "RGB"


def test_cmyk_jpeg_keeps_its_colour() -> None:
    red, green, _ = open_image(encoded(RED.convert("CMYK"), "JPEG")).image.getpixel((5, 5))
    assert red > 200
    assert green < 60


def test_transparency_lies_over_white() -> None:
    assert open_image(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)))).image.getpixel((0, 0)) == (255, 255, 255)
    palette = RED.quantize(4)
    palette.info["transparency"] = palette.getpixel((0, 0))
    data = encoded(palette, transparency=palette.getpixel((0, 0)))
    assert open_image(data).image.getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    pixels = np.asarray(open_image(encoded(Image.fromarray(values))).image)[..., 0]
    assert pixels.min() == 0
    assert pixels.max() == 255
    assert len(np.unique(pixels)) > 200


def test_first_frame_of_an_animation() -> None:
    blue = Image.new("RGB", RED.size, (0, 0, 255))
    data = encoded(RED, "GIF", save_all=True, append_images=[blue], duration=50)
    assert open_image(data).image.getpixel((1, 1))[0] > 200


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    image = Image.new("RGB", (40, 20), "white")
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = open_image(encoded(image, "JPEG", exif=exif))
    upright = (20, 40) if orientation >= 5 else (40, 20)
    assert decoded.image.size == (decoded.width, decoded.height) == upright


@pytest.mark.parametrize("options", [{}, {"format": "MPO", "save_all": True, "append_images": [RED]}])
def test_large_jpegs_are_decoded_at_reduced_scale(options: dict[str, Any]) -> None:
    data = encoded(Image.effect_noise((2000, 1600), 60).convert("RGB"), **{"format": "JPEG", **options})
    decoded = open_image(data, 224)
    assert (decoded.width, decoded.height) == (2000, 1600)
    assert 448 <= min(decoded.image.size) < 1600


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"hello", "not an image"),
        (encoded(RED)[:60], "truncated"),
        (encoded(Image.effect_noise((200, 200), 60), "JPEG")[:2000], "truncated"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "broken|not an image"),
    ],
)
def test_broken_pictures(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        open_image(data)


@pytest.mark.parametrize("format", ["EPS", "PCX", "SGI", "ICNS", "DDS", "IM", "QOI", "PDF"])
def test_other_formats_are_not_opened_at_all(format: str) -> None:
    with pytest.raises(ImageError, match="not an image in a format"):
        open_image(encoded(RED.resize((64, 64)), format))


@pytest.mark.parametrize("format", [*FORMATS, "MPO"])
def test_every_format_that_is_read(format: str) -> None:
    decoded = open_image(encoded(RED, format))
    red, green, blue = decoded.image.getpixel((5, 5))
    assert red > 240 > 20 > max(green, blue)
    assert decoded.image.size == (40, 30) or format == "ICO"


def test_limits() -> None:
    with pytest.raises(ImageError, match="pixels allowed"):
        open_image(encoded(RED), max_pixels=1000)
    with pytest.raises(ImageError, match="bytes"):
        open_image(encoded(RED), max_bytes=10)


_SAMPLES = [encoded(RED, f) for f in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "TGA", "ICO")]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(_SAMPLES), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8), st.data()
)
def test_damage_never_raises_anything_else(sample: bytes, flips: list[tuple[int, int]], data: st.DataObject) -> None:
    damaged = bytearray(sample[: data.draw(st.integers(0, len(sample)))])
    for place, value in flips:
        if damaged:
            damaged[place % len(damaged)] = value
    try:
        decoded = open_image(bytes(damaged), max_pixels=10**6)
    except ImageError as error:
        assert error.reason
    else:
        assert decoded.image.mode == "RGB"
