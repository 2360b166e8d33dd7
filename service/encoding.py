"""Texts and pictures of requests -> unit vectors: read off the event loop, encoded in batches, remembered."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dual_encoder import DualEncoder, ImageError
from dual_encoder.image import open_image
from service.batcher import Batcher
from service.errors import Problem
from service.memo import Memo
from service.settings import Settings
from service.threads import Threads

Vector = NDArray[np.float32]
Tokens = NDArray[np.int64]
T = TypeVar("T")

# What one batch may hold. A call's fixed cost is then a few per cent of it; more would only make others wait longer.
_TOKENS = 256
_PIXELS = 4 * 224 * 224  # pictures gain nothing from a batch on a CPU

# Below these a thread's hand-over (some 60 µs) takes longer than the work itself (20 µs).
_SHORT_TEXT = 200
_SMALL_FILE = 64 * 2**10


class QueryEncoder:
    """Use from one event loop, which it blocks for nothing longer than a short text takes to tokenise."""

    def __init__(self, encoder: DualEncoder, settings: Settings, threads: Threads) -> None:
        self.encoder = encoder
        self._max_pixels = settings.max_pixels
        workers = 1 if encoder.runtime.name == "torch" else threads.streams
        self.batcher = Batcher("encoder", workers)
        self._submit_text = self.batcher.lane("text", self._encode_rows, _TOKENS)
        self._submit_picture = self.batcher.lane("image", self._encode_pixels, _PIXELS)
        self._readers = ThreadPoolExecutor(threads.decoders, thread_name_prefix="reader")
        self._texts = Memo("text", settings.cache_bytes)
        self._pictures = Memo("image", settings.cache_bytes)
        self._fingerprint = encoder.fingerprint.encode()

    def close(self) -> None:
        self.batcher.close()
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def texts(self, texts: Sequence[str]) -> Vector:
        """float32 (n, dim)."""
        return await self.rows(await self.tokenize(texts))

    async def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text, int64 (length,)."""
        if len(texts) == 1 and len(texts[0]) <= _SHORT_TEXT and texts[0].isascii():
            return self.encoder.token_rows(texts)
        return await self.off_loop(lambda: self.encoder.token_rows(texts))

    async def rows(self, rows: Sequence[Tokens]) -> Vector:
        """Texts' token ids -> float32 (n, dim)."""
        if len(rows) == 1:
            return (await self._row(rows[0]))[np.newaxis]
        return np.stack(await asyncio.gather(*map(self._row, rows)))

    async def _row(self, row: Tokens) -> Vector:
        return await self._texts.get(self._fingerprint + row.tobytes(), lambda: self._submit_text(row, len(row)))

    async def pictures(self, files: Sequence[bytes]) -> Vector:
        """Files' bytes -> float32 (n, dim). Raises Problem 422 naming the first that cannot be used."""
        found = await asyncio.gather(*map(self._picture, files), return_exceptions=True)
        for number, vector in enumerate(found):
            if isinstance(vector, ImageError):
                raise Problem(422, f"image{f' {number}' if len(files) > 1 else ''}: {vector}")
            if isinstance(vector, BaseException):
                raise vector
        return np.stack(found)  # type: ignore[arg-type]

    async def _picture(self, data: bytes) -> Vector:
        def digest() -> bytes:
            return hashlib.sha256(data).digest()

        key = digest() if len(data) <= _SMALL_FILE else await self.off_loop(digest)
        return await self._pictures.get(key, lambda: asyncio.ensure_future(self._decode_and_encode(data)))

    async def _decode_and_encode(self, data: bytes) -> Vector:
        pixels = await self.off_loop(lambda: self._decode(data))
        return await self._submit_picture(pixels, pixels[0].size)

    def _decode(self, data: bytes) -> Vector:
        decoded = open_image(data, min(self.encoder.image_size), max_pixels=self._max_pixels)
        return self.encoder.preprocess(decoded.image)

    def _encode_rows(self, rows: Sequence[Tokens]) -> Sequence[Vector]:
        return _copies(self.encoder.encode_rows(rows))

    def _encode_pixels(self, pixels: Sequence[Vector]) -> Sequence[Vector]:
        return _copies(self.encoder.encode_pixels(np.stack(pixels)))

    async def off_loop(self, work: Callable[[], T]) -> T:
        """Run what reads a request's bytes on a reader's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)


def _copies(vectors: Vector) -> list[Vector]:
    """Rows that do not keep their whole batch alive once they are remembered."""
    return [vector.copy() for vector in vectors]
