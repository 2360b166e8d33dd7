"""A small WebP of a picture."""

from __future__ import annotations

import io

from PIL import Image

SIDE = 224  # px, the longer side


def thumbnail(image: Image.Image) -> bytes:
    """An RGB picture -> WebP bytes, never enlarged."""
    scale = min(1, SIDE / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    # Averaged over whole pixels first, then resampled: WebP costs the picture far more than that.
    small = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=1.4)
    out = io.BytesIO()
    small.save(out, "WEBP", quality=75, method=2)
    return out.getvalue()
