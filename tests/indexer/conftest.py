"""An encoder that counts, and pictures that differ. Importable by the processes that a test kills."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image


class FakeEncoder:
    """Random projections of the pixels, and of the letters; `after` is called with the number of pictures so far."""

    reference, dim, image_size = "fake", 8, (16, 16)

    def __init__(self, fingerprint: str = "f00d", after: Callable[[int], None] | None = None) -> None:
        self.fingerprint, self.after = fingerprint, after
        self.pictures = self.texts = 0
        self._weights = np.random.default_rng(0).standard_normal((3 * 16 * 16, 8)).astype(np.float32)

    def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
        return np.moveaxis(np.asarray(image.resize((16, 16)), np.float32) / 255, -1, 0)

    def encode_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        self.pictures += len(pixels)
        if self.after:
            self.after(self.pictures)
        return _unit(pixels.reshape(len(pixels), -1) @ self._weights)

    def encode_texts(self, texts: list[str]) -> NDArray[np.float32]:
        self.texts += len(texts)
        return _unit(np.stack([np.random.default_rng(list(t.encode())).standard_normal(8) for t in texts]))


def _unit(vectors: Any) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def picture(seed: int, suffix: str = "png") -> bytes:
    generator, out = random.Random(seed), io.BytesIO()
    image = Image.frombytes("RGB", (6, 4), generator.randbytes(72)).resize((36, 24), Image.Resampling.NEAREST)
    image.save(out, {"jpg": "JPEG"}.get(suffix, suffix.upper()))
    return out.getvalue()


def write_folder(root: Path, count: int) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (root / f"{number:03}.png").write_bytes(picture(number))
    return root


@pytest.fixture
def fake() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def make_fake() -> type[FakeEncoder]:
    return FakeEncoder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """30 pictures, 000.png to 029.png."""
    return write_folder(tmp_path / "photos", 30)


@pytest.fixture
def draw() -> Callable[..., bytes]:
    """`draw(seed, suffix)`: the bytes of a picture."""
    return picture
