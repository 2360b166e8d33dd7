"""The encoder and the live snapshot behind the API: queries -> vectors -> hits. Nothing of HTTP in here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dual_encoder import DualEncoder, load_encoder
from service import intake, shared_folder
from service.admission import QUEUED, Admission
from service.batcher import Batcher
from service.encoding import QueryEncoder, call_all
from service.errors import Problem
from service.fetch import Allowance, Fetcher
from service.finder import Wanted, find
from service.logs import logger
from service.schemas import ImageInput, Query, QueryPart
from service.settings import Settings
from service.tasks import together
from service.threads import share
from vector_index import Snapshot as IndexSnapshot
from vector_index import SnapshotCorrupt, UnknownId, VectorIndexError
from vector_index.store import Collection, Snapshot, Store, open_store

Vector = NDArray[np.float32]
T = TypeVar("T")

log = logger("crossmodal.index")

_QUERIES = 64  # most in one FAISS search
_ROWS = 10_000  # most hits of the deep searches in one batch
_DEEP = 1000  # hits; a search for more takes long enough that others should not wait behind many of them
_FILES = 8  # of the corpus, read at a time
_FEW = 8  # queries; more are a batch job, which lets others pass


class ModelMismatch(VectorIndexError):
    """The snapshot was built with another model than the service runs."""


class Engine:
    """Open with `Engine(settings)`; every public coroutine runs on one event loop and blocks it for nothing."""

    def __init__(self, settings: Settings, *, lazy: bool = False) -> None:
        """`lazy` leaves each of the model's towers until it is first used."""
        self.settings = settings
        self.fetcher = Fetcher(settings)
        self.store: Store = open_store(settings.index, settings.store, settings.store_token, settings.store_timeout)
        snapshot: Snapshot = self.store.open()
        threads = share(settings.workers)
        model = f"model {snapshot.manifest.model.fingerprint}"
        verify = settings.verify and not lazy and not shared_folder.checked(model)
        self.encoder: DualEncoder = load_encoder(
            settings.model or snapshot.manifest.model.reference,
            device=settings.device,
            runtime=settings.runtime,
            precision=settings.precision,
            threads=threads.encoder,
            lazy=lazy,
            verify=verify,
        )
        self._reloading = asyncio.Lock()
        self.snapshot = self._checked(snapshot) if lazy else self._read_through(snapshot)
        if verify:
            shared_folder.has_checked(model)
        if not lazy:
            _read_ahead(self.snapshot)
        admission = Admission(settings.queue_seconds)
        self.queries = QueryEncoder(self.encoder, settings, threads, admission, isolated=not lazy)
        self._searcher = Batcher("searcher", self.store.searchers, prepare=threads.limit_search)
        self._find = self._searcher.lane("search", find, _QUERIES)
        self._dig = self._searcher.lane("deep search", find, _ROWS)
        self._call = self._searcher.lane("call", call_all, 1)
        # Their own: no query waits for values of millions of rows, for an index's first walk, or a corpus that hangs.
        self._counter = Batcher("counter", self.store.searchers, prepare=threads.limit_search)
        self._warm = self._counter.lane("warm", call_all, 1)
        self._count = self._counter.lane("facets", call_all, 1)
        self._reader = Batcher("content", _FILES)
        self._read = self._reader.lane("content", call_all, 1)
        self._admission = admission
        admission.search = lambda: self._searcher.wait(self._find)
        if not lazy:
            self.encoder.encode_texts(["warm up"])

    def close(self) -> None:
        self.queries.close()
        for batcher in (self._searcher, self._counter, self._reader):
            batcher.close()
        self.store.close()

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
        """Switch to the live snapshot; says whether it is another. A bad one leaves the old serving.

        It is opened, read through and warmed beside the old one, which answers meanwhile.
        """
        async with self._reloading:
            if await asyncio.to_thread(self.store.current) == self.snapshot.name:
                return False
            fresh = await asyncio.to_thread(lambda: self._read_through(self.store.open()))
            await self._warm(lambda: _warm(fresh), 1)
            self.snapshot = fresh  # the old one is unmapped when its last request lets go of it
            return True

    def _read_through(self, snapshot: Snapshot) -> Snapshot:
        self._checked(snapshot)
        if self.settings.verify:
            shared_folder.check_once(snapshot.name, lambda: _check_files(snapshot))
        if self.encoder.runtime.takes_bytes and isinstance(snapshot, IndexSnapshot):
            device = self.settings.device if self.settings.device.startswith("cuda") else "cuda"
            for name, collection in (("images", snapshot.images), ("texts", snapshot.texts)):
                if not collection.hold(device):
                    log.warning("exact search stays on the CPU: the GPU has no room", collection=name)
        return snapshot

    @property
    def busy_for(self) -> float:
        """Seconds that the encoder, or the search, has been at one batch."""
        return max(self.queries.batcher.busy_for, self._searcher.busy_for)

    @property
    def busy_with(self) -> str:
        """Which of them."""
        return "the encoder" if self.queries.batcher.busy_for >= self._searcher.busy_for else "the search"

    @property
    def stalled(self) -> bool:
        """Whether that is longer than it may be."""
        return self.busy_for > self.settings.stall_timeout

    def note_queues(self) -> None:
        """Bring the metric of queued work up to date."""
        queries = self.queries
        for batcher in (queries.batcher, queries.decoder, queries.reader, self._searcher, self._counter, self._reader):
            for lane in batcher.lanes:
                QUEUED.labels(lane.name).set(lane.seconds(lane.pending) / batcher.workers)

    # --- queries ------------------------------------------------------------------------------------------------------

    async def vectors_of(self, queries: Sequence[Query], snapshot: Snapshot) -> list[Vector]:
        """A unit vector for each query, float32 (dim,); a composed query is the weighted sum of its parts."""
        if len(queries) == 1:
            return [await self._vector_of(queries[0], snapshot)]
        bulk = len(queries) > _FEW
        return await together(self._vector_of(query, snapshot, bulk) for query in queries)

    async def _vector_of(self, query: Query, snapshot: Snapshot, bulk: bool = False) -> Vector:
        parts = query if isinstance(query, list) else [query]
        if len(parts) == 1 and parts[0].weight == 1.0:
            return await self._part(parts[0], snapshot, bulk)
        vectors = await together(self._part(part, snapshot, bulk) for part in parts)
        weights = np.asarray([part.weight for part in parts], dtype=np.float64)
        weights /= np.abs(weights).max() or 1.0  # so that huge ones do not overflow
        total = weights @ np.asarray(vectors, dtype=np.float64)
        return _unit(total, "the weighted parts of the query add up to nothing")

    async def _part(self, part: QueryPart, snapshot: Snapshot, bulk: bool) -> Vector:
        if part.text is not None:
            text: Vector = (await self.queries.texts([part.text], bulk=bulk))[0]
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
        by_id = [number for number, image in enumerate(images) if image.id is not None]
        sent = [number for number, image in enumerate(images) if image.id is None]
        if by_id:

            def stored() -> Vector:
                return snapshot.images.vectors([row_of(snapshot.images, images[number].id or "") for number in by_id])

            vectors[by_id] = await self.in_searcher(stored)
        if sent:
            allowance = self.fetcher.allowance()
            files = await together(self._bytes_of(images[number], allowance) for number in sent)
            vectors[sent] = await self.queries.pictures(files)
        return vectors

    async def _bytes_of(self, image: ImageInput, allowance: Allowance) -> bytes:
        url = image.url or ""
        if image.base64 is not None:
            return await self.queries.off_loop(partial(intake.from_base64, image.base64), len(image.base64))
        if url[:5].lower() == "data:":
            return await self.queries.off_loop(partial(intake.from_data_uri, url), len(url))
        return await self.fetcher.fetch(url, allowance)

    # --- search -------------------------------------------------------------------------------------------------------

    async def find(self, wanted: Sequence[Wanted]) -> list[bytes]:
        """The hits of each query, as JSON."""
        first = wanted[0]
        lane, cost = self._find, 1
        if first.exact or first.group_by is not None or first.rows > _DEEP or len(wanted) > _FEW:
            lane, cost = self._dig, max(first.rows, _ROWS // _QUERIES)
        self._admission.admit(lambda: (self._searcher.wait(lane), lane.seconds(cost * len(wanted))))
        if len(wanted) == 1:
            return [await lane(first, cost)]
        return await asyncio.gather(*(lane(one, cost) for one in wanted))

    async def in_searcher(self, work: Callable[[], T]) -> T:
        """Run what touches FAISS or the tables on the one thread for it. Raises Problem 503 if it has no time."""
        self._admission.admit(lambda: (self._searcher.wait(self._call), self._call.seconds(1)))
        result: T = await self._call(work, 1)
        return result

    def check_facets(self, columns: int) -> None:
        """Raises Problem 503 where there is no time to count the values of so many columns."""
        self._admission.foresee(lambda: (self._counter.wait(self._count), self._count.seconds(columns)))

    async def count(self, work: Callable[[], T]) -> T:
        """Run what reads a whole column."""
        result: T = await self._count(work, 1)
        return result

    async def read(self, work: Callable[[], bytes]) -> bytes:
        """Run what reads a file of the corpus. Raises Problem 503 where there is no time for it."""
        self._admission.foresee(lambda: (self._reader.wait(self._read), self._read.seconds(1)))
        data: bytes = await self._read(work, 1)
        return data


def _check_files(snapshot: Snapshot) -> None:
    if problems := snapshot.check_files():
        raise SnapshotCorrupt(f"{snapshot.name}: {'; '.join(problems)}")


def _read_ahead(snapshot: Snapshot) -> None:
    """Have the system read the indexes: a walk of a graph would wait for the disk at every step (6 ms, not 0.2).

    What does not fit into half of the memory that can be had is left: vectors that refine come last in their file.
    """
    told = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    left = int(told["MemAvailable"].split()[0]) * 1024 // 2
    for path in snapshot.index_files:
        with path.open("rb") as file:
            wanted = min(path.stat().st_size, left)
            if wanted:  # 0 would mean all of it
                os.posix_fadvise(file.fileno(), 0, wanted, os.POSIX_FADV_WILLNEED)
            left -= wanted


def _warm(snapshot: Snapshot) -> None:
    """Search both collections once."""
    _read_ahead(snapshot)
    query = np.full((1, snapshot.manifest.model.dim), snapshot.manifest.model.dim**-0.5, np.float32)
    for collection in (snapshot.images, snapshot.texts):
        collection.search(query, 1)


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
