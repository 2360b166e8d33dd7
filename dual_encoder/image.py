"""Bytes -> an upright RGB picture. The one place that decides what an image may be: its format, bytes and pixels.

How long decoding may take is for whoever decodes what strangers send: service.decoders.
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from dual_encoder.errors import ImageError

__all__ = ["FORMATS", "MAX_BYTES", "MAX_PIXELS", "DecodedImage", "ImageError", "open_image", "to_rgb"]

MAX_BYTES = 50 * 2**20
MAX_PIXELS = 200_000_000  # a 200 MP photograph; 100,000 × 100,000 in a header is refused before anything is decoded

# Pillow reads some forty; these are those that pictures come in. Left out is what runs another program (EPS), wraps
# other formats (ICNS, FPX, MIC), or is old, rare and seldom looked over (PSD, PCX, SUN, FLI, DDS, XBM and so on).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO")
_NAMES = ", ".join(FORMATS)

_JPEGS = ("JPEG", "MPO")  # MPO, as phones write: several in one file
_ORIENTATION = 0x0112
_SIDEWAYS = {5, 6, 7, 8}


@dataclass(frozen=True)
class DecodedImage:
    """`image` is RGB and upright, perhaps at reduced scale; `width` and `height` (px) are the original's, upright."""

    image: Image.Image
    width: int
    height: int
    format: str


def open_image(
    data: bytes, target_side: int | None = None, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> DecodedImage:
    """Decode a picture.

    With `target_side` (px), a JPEG (or an MPO) whose shorter side is more than twice that is decoded at a reduced scale
    that still leaves at least twice the target. Of an animation or of several pages the first alone is decoded;
    transparency lies over white.

    Raises ImageError: empty, too large in bytes or pixels, no picture, truncated or broken.
    """
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    if len(data) > max_bytes:
        raise ImageError(f"the file has {len(data):,} bytes, more than the {max_bytes:,} allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, higher bomb threshold; ours decides below
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.format in _JPEGS:  # in one piece: 3 % less work for one of 12 MP than 64 KB at a time
                    image.decodermaxblock = len(data)
                return _decode(image, target_side, max_pixels)
    except ImageError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        if isinstance(error, Image.DecompressionBombError):
            raise ImageError(f"the picture has more than the {max_pixels:,} pixels allowed") from None
        raise ImageError(f"not an image in a format that is read here: {_NAMES}") from None
    except MemoryError:
        raise ImageError("the picture does not fit into memory") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, OverflowError,
            AttributeError, ZeroDivisionError, RuntimeError, NotImplementedError) as error:  # fmt: skip
        # Pillow's decoders raise any of these on broken input.
        raise ImageError(f"the picture is truncated or broken ({str(error)[:100] or type(error).__name__})") from None


def _decode(image: Image.Image, target_side: int | None, max_pixels: int) -> DecodedImage:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"the picture has no pixels ({width} × {height})")
    if width * height > max_pixels:
        raise ImageError(f"the picture has {width:,} × {height:,} px, more than the {max_pixels:,} pixels allowed")
    image_format = image.format or "?"
    if target_side and image_format in _JPEGS and min(width, height) > 2 * target_side:
        # draft() picks the smallest of 1/1 … 1/8 that still covers the size asked for
        scale = 2 * target_side / min(width, height)
        image.draft(None, (max(1, int(width * scale)), max(1, int(height * scale))))
    turned = orientation(image)
    image.load()
    upright = ImageOps.exif_transpose(image) if turned != 1 else image
    if turned in _SIDEWAYS:
        width, height = height, width
    return DecodedImage(to_rgb(upright), width, height, image_format)


def orientation(image: Image.Image) -> int:
    """As EXIF has it: 1 is upright."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB: transparency over white, 16-bit and float greys scaled to 8 bits."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _grey_to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        over = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def _grey_to_rgb(image: Image.Image) -> Image.Image:
    # convert("RGB") would clip everything above 255 to white.
    import numpy as np

    values: Any = np.nan_to_num(np.asarray(image, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high > 255:
        values, low, high = values / 65535 if high <= 65535 else values / high, 0.0, 1.0
    elif low >= 0:
        low, high = 0.0, 1.0 if high <= 1 and image.mode == "F" else 255.0
    grey = np.clip((values - low) / ((high - low) or 1.0) * 255 + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(grey, "L").convert("RGB")
