"""JPEGs -> pixels on a GPU: nvJPEG decodes, torch reduces and resizes. What it cannot take is left to the CPU."""

from __future__ import annotations

import io
import sys
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dual_encoder.errors import ModelError
from dual_encoder.image import MAX_BYTES, DecodedImage, orientation
from dual_encoder.preprocess import Preprocess

if TYPE_CHECKING:
    import torch

Found = tuple[DecodedImage, NDArray[np.uint8]]

_TOGETHER = 32  # files a call
_MOST_PIXELS = 50_000_000  # of one picture: as float32, 600 MB
_LEAST_SIDE = 16
_LONGEST = 20  # times as long as wide; torch resizes what is 1 px wide wrongly on a CPU
_PATIENCE = 8  # failures one after the other, and no more is tried


class DeviceJpegs:
    """Call it from many threads: what waits while the GPU is busy is decoded together.

    Pixels are those of the CPU but for rounding where a JPEG is decoded whole; where it is reduced (to no less than
    twice `side`, as open_image does) blocks of pixels are averaged, which is not quite what libjpeg does.
    """

    def __init__(self, preprocess: Preprocess, side: int, device: str) -> None:
        """Raises ModelError where there is no torchvision."""
        try:
            from torchvision.io import ImageReadMode, decode_jpeg
        except ImportError as error:
            raise ModelError(f"decoding on a GPU needs a torchvision that decodes JPEGs ({error})") from None
        self._decode: Callable[[list[Any]], Any] = partial(decode_jpeg, mode=ImageReadMode.RGB, device=device)
        self._preprocess, self._side = preprocess, side
        self._waiting: deque[tuple[bytes, Future[Found | None]]] = deque()
        self._at_work = Lock()
        self._failures = 0

    def __call__(self, data: bytes) -> Found | None:
        """A file -> the picture, perhaps reduced, and its crop uint8 (H, W, 3); None for what the CPU is to look at."""
        if self._failures >= _PATIENCE or not _is_plain(data):
            return None
        mine: Future[Found | None] = Future()
        self._waiting.append((data, mine))
        while not mine.done():
            with self._at_work:
                if not mine.done():
                    self._serve()
        return mine.result()

    def _serve(self) -> None:
        import torch

        batch = [self._waiting.popleft() for _ in range(min(_TOGETHER, len(self._waiting)))]
        found: list[Found | None] = [None] * len(batch)
        try:
            with torch.inference_mode():
                decoded = self._decode([torch.frombuffer(bytearray(data), dtype=torch.uint8) for data, _ in batch])
                found = [self._found(each) for each in decoded]
            self._failures = 0
        except Exception as error:  # a damaged file spoils its batch; no nvJPEG, or no memory, every one
            self._failures += 1
            if self._failures == _PATIENCE:
                said = " ".join(str(error).split())[:200]
                print(f"warning: JPEGs are decoded on the CPU from here on: {said}", file=sys.stderr)
        finally:
            for (_, future), each in zip(batch, found, strict=True):
                future.set_result(each)

    def _found(self, decoded: torch.Tensor) -> Found:
        height, width = decoded.shape[1:]
        small = reduced(decoded, 2 * self._side)
        picture = Image.fromarray(small.permute(1, 2, 0).cpu().numpy())
        return DecodedImage(picture, width, height, "JPEG"), crop(small, self._preprocess).cpu().numpy()


def reduced(picture: torch.Tensor, least: int) -> torch.Tensor:
    """uint8 (3, H, W), by the largest of 1/8, 1/4 and 1/2 that leaves the shorter side `least` px, as Image.draft."""
    import torch

    factor = next((by for by in (8, 4, 2) if min(picture.shape[1:]) >= by * least), 1)
    if factor == 1:
        return picture
    pool = torch.nn.functional.avg_pool2d
    return _bytes(pool(picture[None].float(), factor, ceil_mode=True, count_include_pad=False))[0]


def crop(picture: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """uint8 (3, H, W) -> uint8 (height, width, 3) of a model: what `Preprocess.crop` gives, to 5 of 255."""
    import torch

    (width, height), (left, top) = preprocess.place((picture.shape[2], picture.shape[1]))
    resized = picture
    # As Pillow: row by row first, and in whole numbers in between.
    for shape in ((picture.shape[1], width), (height, width)):
        if shape != resized.shape[1:]:
            floats = resized[None].float().contiguous()
            again = torch.nn.functional.interpolate(floats, shape, mode=preprocess.interpolation, antialias=True)
            resized = _bytes(again)[0]
    out_h, out_w = preprocess.size
    # What lies outside is filled: a negative padding cuts.
    edges = [-left, left + out_w - width, -top, top + out_h - height]
    placed = torch.nn.functional.pad(resized, edges, value=preprocess.fill_color)
    return placed.permute(1, 2, 0).contiguous()


def _bytes(picture: torch.Tensor) -> torch.Tensor:
    import torch

    return picture.round().clamp(0, 255).to(torch.uint8)


def _is_plain(data: bytes) -> bool:
    """Whether it is a whole JPEG, grey or in colour, upright, and neither tiny, huge nor a strip."""
    if len(data) > MAX_BYTES or not data.startswith(b"\xff\xd8") or not data.endswith(b"\xff\xd9"):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                is_colour = image.mode == "RGB" and image.info.get("adobe_transform") != 0  # 0: not YCbCr
                return (
                    image.format == "JPEG"
                    and (is_colour or image.mode == "L")
                    and _LEAST_SIDE <= min(image.size) >= max(image.size) / _LONGEST
                    and image.width * image.height <= _MOST_PIXELS
                    and orientation(image) == 1
                )
    except Exception:  # Pillow's decoders raise any
        return False
