"""A small WebP of a picture."""

from __future__ import annotations

import io

from PIL import Image

SIDE = 224  # px, the longer side


def thumbnail(image: Image.Image) -> bytes:
    """An RGB picture -> WebP bytes, never enlarged."""
    small = image.copy()
    # Averaged over whole pixels first, then resampled: WebP costs the picture far more than that.
    small.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=1.4)
    out = io.BytesIO()
    small.save(out, "WEBP", quality=75, method=2)
    return out.getvalue()
