"""What runs on the machines of a Ray cluster: it holds the encoder, reads parts and encodes what is chosen of them."""

from __future__ import annotations

import pickle
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corpus import Record
from indexer.engine import Job, arithmetic_of, cut
from indexer.rows import Row, read_row

_HELD = 3  # parts, whose pictures wait to be chosen

Floats = NDArray[np.float32]
_Pictures: TypeAlias = list[tuple[Image.Image | None, bytes | None]]  # resized, and their thumbnails


class Hello(NamedTuple):
    """Who works where, with which model; or why it cannot."""

    host: str
    fingerprint: str = ""
    dim: int = 0
    arithmetic: str = ""
    batch: int = 0
    error: str = ""


class Encoded(NamedTuple):
    """Of the chosen pictures float32 (n, dim) and their thumbnails; of the texts float32 (m, dim)."""

    vectors: Floats
    thumbnails: list[bytes | None]
    text_vectors: Floats


class Worker:
    """An actor. Reading one part and encoding another go on at once; each answer depends on the arguments alone.

    A part's pictures are kept, resized, from `read` to `encode`. A worker that has them no longer, or never had
    because another one read them, reads them again.
    """

    def __init__(self, model: str, device: str, runtime: str, precision: str, threads: int) -> None:
        self._model = model
        self._options: dict[str, Any] = {
            "device": device, "runtime": runtime, "precision": precision, "threads": threads
        }  # fmt: skip
        self._encoder: Any = None
        self._held: dict[int, _Pictures] = {}
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="reader")
        self._reading, self._encoding = Lock(), Lock()

    def hello(self) -> Hello:
        """Load the model. To be called before anything else, and again when the worker was restarted."""
        from dual_encoder import load_encoder
        from dual_encoder.errors import ModelError

        host = socket.gethostname()
        with self._encoding:
            if self._encoder is None:
                try:
                    self._encoder = load_encoder(self._model, **self._options)
                except (ModelError, OSError, ValueError) as error:
                    return Hello(host, error=str(error))
            encoder = self._encoder
            return Hello(host, encoder.fingerprint, encoder.dim, arithmetic_of(encoder), encoder.batch)

    def read(self, number: int, packed: bytes, job: Job) -> list[Row]:
        """The rows of part `number`; `packed` is its pickled list of records."""
        with self._reading:
            rows, pictures = self._read(packed, job)
            while len(self._held) >= _HELD:
                self._held.pop(max(self._held))
            self._held[number] = pictures
            return rows

    def encode(self, number: int, packed: bytes, job: Job, chosen: list[int], texts: list[str]) -> Encoded:
        """The vectors of these pictures of part `number`, by their places in it, and of these texts."""
        with self._reading:  # another part may be put in its place
            held = self._held.pop(number, None) or self._read(packed, job)[1]
        with self._encoding:
            vectors = [
                self._encode(held, chosen[at : at + job.batch_size]) for at in range(0, len(chosen), job.batch_size)
            ]
            said = [self._encoder.encode_texts(some) for some in cut(texts)]
        return Encoded(
            np.concatenate([self._none(), *vectors]),
            [held[place][1] for place in chosen],
            np.concatenate([self._none(), *said]),
        )

    def _read(self, packed: bytes, job: Job) -> tuple[list[Row], _Pictures]:
        records: list[Record] = pickle.loads(packed)
        # Resized, a picture takes a quarter of what the encoder is given.
        read = partial(
            read_row, size=self._encoder.image_size, prepare=self._encoder.preprocess.resize,
            thumbnails=job.thumbnails,
        )  # fmt: skip
        done = list(self._readers.map(read, records))
        return [row for row, _, _ in done], [(picture, small) for _, picture, small in done]

    def _encode(self, held: _Pictures, places: list[int]) -> Floats:
        pixels = np.stack([self._encoder.prepare(held[place][0]) for place in places])
        vectors: Floats = self._encoder.encode_pixels(pixels)
        return vectors

    def _none(self) -> Floats:
        return np.empty((0, self._encoder.dim), np.float32)
