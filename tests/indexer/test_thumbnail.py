import io

import pytest
from PIL import Image

from indexer.thumbnail import SIDE, thumbnail


@pytest.mark.parametrize(
    ("size", "expected"), [((448, 100), (SIDE, 50)), ((30, 20), (30, 20)), ((1, 1), (1, 1)), ((5000, 1), (SIDE, 1))]
)
def test_small_webp(size: tuple[int, int], expected: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(thumbnail(Image.new("RGB", size, "red")))) as small:
        assert (small.format, small.size) == ("WEBP", expected)
