"""Pictures that differ."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import pytest
from PIL import Image


@pytest.fixture
def draw() -> Callable[..., bytes]:
    """`draw(seed, suffix)`: the bytes of a picture."""

    def picture(seed: int, suffix: str = "png") -> bytes:
        generator, out = random.Random(seed), io.BytesIO()
        image = Image.frombytes("RGB", (6, 4), generator.randbytes(72)).resize((36, 24), Image.Resampling.NEAREST)
        image.save(out, {"jpg": "JPEG"}.get(suffix, suffix.upper()))
        return out.getvalue()

    return picture
