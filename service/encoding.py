"""Texts and pictures of requests -> unit vectors: read off the event loop, encoded in batches, remembered."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dual_encoder import DualEncoder, ImageError
from service.admission import Admission
from service.batcher import Batcher, Lane
from service.decoders import Decoders, Pixels
from service.errors import Problem
from service.memo import Memo
from service.settings import Settings
from service.threads import Threads

Vector = NDArray[np.float32]
Tokens = NDArray[np.int64]
T = TypeVar("T")

# What one batch may hold. Twice as much takes 5 to 14 % less for each, and makes others wait twice as long: so much is
# taken where nobody waits but crowds.
_TOKENS = 256
_PIXELS = 4 * 224 * 224
_ON_GPU = 16  # times as much: it computes them together

# Below these a thread's hand-over (some 60 µs) takes longer than the work itself (15 to 80 µs).
_SHORT_TEXT = 200  # characters; of what is not ASCII half as many
_SMALL_FILE = 128 * 2**10

_MOST_SIZES = 2**16  # of large files

_OF_A_FILE = 64 * 2**10  # bytes: what decoding any file costs, however small
# What a call costs besides. Without it a unit would seem the dearer the less a call holds, of nothing endlessly dear.
_OF_A_READING = 4 * 2**10  # bytes
_OF_A_TOKENISING = 100  # characters


class QueryEncoder:
    """Use from one event loop, which it blocks for nothing longer than a short text takes to tokenise."""

    def __init__(
        self, encoder: DualEncoder, settings: Settings, threads: Threads, admission: Admission, isolated: bool = True
    ) -> None:
        """`isolated`: pictures are decoded in processes of their own, where the settings want any."""
        self.encoder = encoder
        self._admission = admission
        times = _ON_GPU if encoder.runtime.takes_bytes else 1
        self.batcher = Batcher("encoder", encoder.streams)
        self._submit_text = self.batcher.lane("text", self._encode_rows, times * _TOKENS, 2 * times * _TOKENS)
        self._submit_picture = self.batcher.lane("image", self._encode_pixels, times * _PIXELS, 2 * times * _PIXELS)
        # Texts of many in one request wait in a queue of their own: one text never waits for more than a batch of them.
        self._submit_texts = self.batcher.lane("texts", self._encode_rows, times * _TOKENS)
        processes = threads.decoders if settings.decoder_processes is None else settings.decoder_processes
        decoders = Decoders(
            encoder.preprocess,
            isolated=isolated and processes > 0,
            max_bytes=settings.max_body_bytes,
            max_pixels=settings.max_pixels,
            timeout=settings.decode_timeout,
            as_bytes=encoder.runtime.takes_bytes,
        )
        self.decoders = decoders
        self.decoder = Batcher("decoder", processes or threads.decoders, decoders.prepare, decoders.close)
        self._submit_file = self.decoder.lane("decode", decoders.decode_all, 1)
        # Not the decoders' threads: a text must not wait for pictures.
        self.reader = Batcher("reader", threads.decoders)
        self._tokenize = self.reader.lane("tokenize", call_all, 1)
        self._read = self.reader.lane("read", call_all, 1)
        self._texts = Memo("text", settings.cache_bytes)
        self._pictures = Memo("image", settings.cache_bytes)
        self._sizes: set[int] = set()  # of large files that are here or may be remembered: one of another size is new
        self._remembers = settings.cache_bytes > 0
        self._fingerprint = encoder.fingerprint.encode()

    def close(self) -> None:
        for batcher in (self.batcher, self.decoder, self.reader):
            batcher.close()

    async def texts(self, texts: Sequence[str], *, bulk: bool = False) -> Vector:
        """float32 (n, dim). `bulk`: one of many that a request asks for."""
        return await self.rows(await self.tokenize(texts), bulk=bulk)

    async def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text, int64 (length,). Raises Problem 503 where there is no time for long ones."""
        if len(texts) == 1 and len(texts[0]) <= (_SHORT_TEXT if texts[0].isascii() else _SHORT_TEXT // 2):
            return self.encoder.token_rows(texts)
        size = _OF_A_TOKENISING + sum(map(len, texts))
        return await self._off_loop(self._tokenize, lambda: self.encoder.token_rows(texts), size)

    async def rows(self, rows: Sequence[Tokens], *, bulk: bool = False) -> Vector:
        """Texts' token ids -> float32 (n, dim). Raises Problem 503 where there is no time for them."""
        if len(rows) == 1:
            return (await self._row(rows[0], bulk))[np.newaxis]
        return np.stack(await asyncio.gather(*(self._row(row, True) for row in rows)))

    async def _row(self, row: Tokens, bulk: bool) -> Vector:
        lane = self._submit_texts if bulk else self._submit_text

        def start() -> asyncio.Future[Vector]:
            self._admission.admit(lambda: (self.batcher.wait(lane), lane.seconds(len(row))))
            return lane(row, len(row))

        return await self._texts.get(self._fingerprint + row.tobytes(), start)

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

        def start() -> asyncio.Future[Vector]:
            return asyncio.ensure_future(self._decode_and_encode(data))

        self._admission.admit(self._of_a_picture)  # before as much as a hash is taken of it
        if len(data) <= _SMALL_FILE:
            return await self._pictures.get(digest(), start)
        new = len(data) not in self._sizes
        self._sizes.add(len(data))
        begun = [start()] if new else []  # need not wait for its hash
        try:
            key = await self.off_loop(digest, len(data))
            return await self._pictures.get(key, lambda: begun.pop() if begun else start())
        finally:
            for each in begun:  # the client has gone, or another sent the same
                each.cancel()
                each.add_done_callback(_let_go)
            if (new and not self._remembers) or len(self._sizes) > _MOST_SIZES:
                self._sizes.discard(len(data))

    def check_pictures(self) -> None:
        """Raises Problem 503 where there is no time for one more picture."""
        self._admission.foresee(self._of_a_picture)

    def _of_a_picture(self) -> tuple[float, float]:
        """Seconds that one more picture would wait, and take."""
        encode = self._submit_picture
        decoding, size = self._submit_file.items, self.encoder.image_size[0] * self.encoder.image_size[1]
        # A pipeline: as slow as its slowest stage, and what is being decoded is still to be encoded.
        coming = encode.seconds(decoding * size) / self.batcher.workers
        wait = max(self.decoder.wait(self._submit_file), self.batcher.wait(encode) + coming)
        return wait, encode.seconds(size) + self._submit_file.seconds(_OF_A_FILE)

    async def _decode_and_encode(self, data: bytes) -> Vector:
        pixels = await self._submit_file(data, len(data) + _OF_A_FILE)
        return await self._submit_picture(pixels, pixels.size // 3)

    def _encode_rows(self, rows: Sequence[Tokens]) -> Sequence[Vector]:
        return _copies(self.encoder.encode_rows(rows))

    def _encode_pixels(self, pixels: Sequence[Pixels]) -> Sequence[Vector]:
        return _copies(self.encoder.encode_pixels(np.stack(pixels)))

    async def off_loop(self, work: Callable[[], T], size: int) -> T:
        """Run what reads so many bytes of a request on a reader's thread. Raises Problem 503 where there is no time."""
        return await self._off_loop(self._read, work, _OF_A_READING + size)

    async def _off_loop(self, lane: Lane[Any, Any], work: Callable[[], T], size: int) -> T:
        self._admission.foresee(lambda: (self.reader.wait(lane), lane.seconds(size)))
        result: T = await lane(work, size)
        return result


def call_all(works: Sequence[Callable[[], Any]]) -> list[Any]:
    return [work() for work in works]


def _let_go(future: asyncio.Future[Vector]) -> None:
    """Nobody asks why it failed: asyncio would say so in the log."""
    if not future.cancelled():
        future.exception()


def _copies(vectors: Vector) -> list[Vector]:
    """Rows that do not keep their whole batch alive once they are remembered."""
    return [vector.copy() for vector in vectors]
