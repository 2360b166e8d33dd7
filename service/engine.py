"""The encoder and the live snapshot behind the API: queries -> vectors -> rows. Nothing of HTTP in here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dual_encoder import DualEncoder, ImageError, load_encoder
from dual_encoder.image import open_image
from service import intake
from service.batcher import Batcher
from service.problems import Problem
from service.schemas import ImageInput, Query, QueryPart
from service.settings import Settings
from vector_index import Collection, IndexDirectory, Snapshot, UnknownId, VectorIndexError

Vector = NDArray[np.float32]
T = TypeVar("T")

_TEXT_BATCH, _IMAGE_BATCH = 32, 16


class ModelMismatch(VectorIndexError):
    """The snapshot was built with another model than the service runs."""


class Engine:
    """Open with `Engine(settings)`; every public coroutine runs on one event loop and blocks it for nothing."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._directory = IndexDirectory(settings.index)
        snapshot = self._directory.open()
        reference = settings.model or snapshot.manifest.model.reference
        self.encoder: DualEncoder = load_encoder(
            reference, device=settings.device, runtime=settings.runtime, precision=settings.precision
        )
        self.snapshot = self._checked(snapshot)
        self.batcher = Batcher()
        self._encode_texts = self.batcher.lane(self._run_texts, _TEXT_BATCH)
        self._encode_pixels = self.batcher.lane(self._run_pixels, _IMAGE_BATCH)
        self._decoders = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decoder")
        # FAISS keeps a pool of OpenMP threads for every thread that calls it: let one thread call it.
        self._searcher = ThreadPoolExecutor(1, thread_name_prefix="searcher")
        self.encoder.encode_texts(["warm up"])

    def close(self) -> None:
        self.batcher.close()
        for pool in (self._decoders, self._searcher):
            pool.shutdown(wait=False, cancel_futures=True)

    def _checked(self, snapshot: Snapshot) -> Snapshot:
        built, running = snapshot.manifest.model, self.encoder
        if built.fingerprint != running.fingerprint:
            raise ModelMismatch(
                f"snapshot {snapshot.name} was built with model {built.reference!r} ({built.fingerprint[:12]}), "
                f"but the model here is {running.reference!r} ({running.fingerprint[:12]}): "
                "serve it with the model it was built with, or build the index again"
            )
        return snapshot

    async def reload(self) -> bool:
        """Switch to the snapshot that CURRENT names; says whether it is another. A bad one leaves the old serving."""
        if self._directory.current() == self.snapshot.name:
            return False
        fresh = await self.in_searcher(lambda: self._checked(self._directory.open()))
        self.snapshot = fresh  # the old one is unmapped when its last request lets go of it
        return True

    @property
    def stalled(self) -> bool:
        """Whether the encoder has been at one batch for longer than it may."""
        return self.batcher.busy_for > self.settings.stall_timeout

    # --- encoding -----------------------------------------------------------------------------------------------------

    async def encode_texts(self, texts: Sequence[str]) -> Vector:
        """float32 (n, dim)."""
        return np.stack(await self._encode_texts(texts))

    async def encode_images(self, images: Sequence[bytes]) -> Vector:
        """Files' bytes -> float32 (n, dim). Raises Problem 422 naming the first that cannot be used."""
        loop = asyncio.get_running_loop()
        decoding = [loop.run_in_executor(self._decoders, self._decode, data) for data in images]
        decoded = await asyncio.gather(*decoding, return_exceptions=True)
        for number, pixels in enumerate(decoded):
            if isinstance(pixels, ImageError):
                raise Problem(422, f"image{f' {number}' if len(images) > 1 else ''}: {pixels}")
            if isinstance(pixels, BaseException):
                raise pixels
        return np.stack(await self._encode_pixels(decoded))  # type: ignore[arg-type]

    def _decode(self, data: bytes) -> Vector:
        decoded = open_image(data, min(self.encoder.image_size), max_pixels=self.settings.max_pixels)
        return self.encoder.preprocess(decoded.image)

    def _run_texts(self, texts: Sequence[str]) -> Sequence[Vector]:
        return list(self.encoder.encode_texts(texts))

    def _run_pixels(self, pixels: Sequence[Vector]) -> Sequence[Vector]:
        return list(self.encoder.encode_pixels(np.stack(pixels)))

    # --- queries ------------------------------------------------------------------------------------------------------

    async def vectors_of(self, queries: Sequence[Query], snapshot: Snapshot) -> Vector:
        """One unit vector a query, float32 (n, dim); a composed query is the weighted sum of its parts."""
        return np.stack(await asyncio.gather(*(self._vector_of(query, snapshot) for query in queries)))

    async def _vector_of(self, query: Query, snapshot: Snapshot) -> Vector:
        parts = query if isinstance(query, list) else [query]
        vectors = await asyncio.gather(*(self._part(part, snapshot) for part in parts))
        if len(parts) == 1 and parts[0].weight == 1.0:
            return vectors[0]
        total = np.sum([part.weight * vector for part, vector in zip(parts, vectors, strict=True)], axis=0)
        return _unit(total, "the weighted parts of the query add up to nothing")

    async def _part(self, part: QueryPart, snapshot: Snapshot) -> Vector:
        if part.text is not None:
            text: Vector = (await self.encode_texts([part.text]))[0]
            return text
        if part.image is not None:
            image: Vector = (await self.images_vectors([part.image], snapshot))[0]
            return image
        vector = np.asarray(part.vector, dtype=np.float64)
        if vector.shape != (self.encoder.dim,):
            raise Problem(422, f"vector has {vector.size} numbers; the model's have {self.encoder.dim}")
        return _unit(vector, "vector has no direction: all its numbers are 0")

    async def images_vectors(self, images: Sequence[ImageInput], snapshot: Snapshot) -> Vector:
        """Pictures by id, URL or base64 -> float32 (n, dim); indexed ones are not encoded again."""
        vectors = np.empty((len(images), self.encoder.dim), dtype=np.float32)
        sent = [number for number, image in enumerate(images) if image.id is None]
        for number, image in enumerate(images):
            if image.id is not None:
                row = row_of(snapshot.images, image.id)
                vectors[number] = (await self.in_searcher(lambda row=row: snapshot.images.vectors([row])))[0]  # type: ignore[misc]
        if sent:
            vectors[sent] = await self.encode_images([await self._bytes_of(images[number]) for number in sent])
        return vectors

    async def _bytes_of(self, image: ImageInput) -> bytes:
        if image.base64 is not None:
            return intake.from_base64(image.base64)
        return await intake.from_url(image.url or "", self.settings)

    # --- search -------------------------------------------------------------------------------------------------------

    async def search(
        self, collection: Collection, vectors: Vector, k: int, exact: bool
    ) -> tuple[Vector, NDArray[np.int64]]:
        """(n, dim) -> scores float32 and rows int64, both (n, ≤ k), best first."""
        return await self.in_searcher(lambda: collection.search(vectors, k, exact=exact))

    async def in_searcher(self, work: Callable[[], T]) -> T:
        """Run what touches FAISS or the tables on the one thread for it."""
        return await asyncio.get_running_loop().run_in_executor(self._searcher, work)


def row_of(collection: Collection, id: str) -> int:
    """Raises Problem 404 for an id that the snapshot does not have."""
    try:
        return collection.row_of(id)
    except UnknownId:
        raise Problem(404, f"no picture with id {id[:100]!r} in this index") from None


def _unit(vector: NDArray[Any], complaint: str) -> Vector:
    largest = float(np.abs(vector).max(initial=0.0))
    if largest == 0.0:
        raise Problem(422, complaint)
    scaled = vector / largest  # so that huge numbers do not overflow
    return np.asarray(scaled / np.linalg.norm(scaled), dtype=np.float32)


def check(settings: Settings) -> None:
    """Raise now what would stop a worker from starting: no index, a broken one, or another model's."""
    Engine(settings).close()
