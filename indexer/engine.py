"""Where the pictures of a build are read and encoded: in this process, or elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from operator import methodcaller
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corpus import Record
from dual_encoder.cores import cores
from indexer.ledger import Ledger
from indexer.rows import Choice, Read, Row, add_texts, new_texts, pack, read_row

if TYPE_CHECKING:
    from dual_encoder.device_jpegs import DeviceJpegs
    from dual_encoder.encoder import Runtime

_READERS = 32  # files asked for at a time: those of the web take their time to come
_TEXTS = 512  # that are encoded together

Pixels = NDArray[Any]
Floats = NDArray[np.float32]


class Encoder(Protocol):
    """What building needs of a dual encoder."""

    reference: str
    fingerprint: str
    dim: int
    runtime: Runtime

    @property
    def streams(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def image_size(self) -> tuple[int, int]: ...
    def prepare(self, image: Image.Image) -> NDArray[Any]: ...
    def encode_pixels(self, pixels: NDArray[Any]) -> NDArray[np.float32]: ...
    def encode_texts(self, texts: list[str]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Job:
    """How a corpus is cut: records a part, pictures a batch. Parts are the same with every engine."""

    part_size: int
    batch_size: int
    thumbnails: bool
    captions: bool = True  # whether they are encoded too


class EngineError(Exception):
    """An engine that cannot work; the message says why. Finished parts are kept."""


def arithmetic_of(encoder: Encoder) -> str:
    """What vectors are computed with, `openvino bf16`."""
    return f"{encoder.runtime.name} {encoder.runtime.precision}"


def cut(texts: list[str]) -> list[list[str]]:
    """The captions of a part as they are encoded together, with every engine."""
    return [texts[start : start + _TEXTS] for start in range(0, len(texts), _TEXTS)]


class Engine(ABC):
    """Makes parts of records, with the model that these tell of."""

    reference: str
    fingerprint: str
    dim: int
    arithmetic: str  # runtime, precision and decoder: vectors of two differ a little
    batch: int  # pictures encoded together, where nobody says how many
    encoder: Encoder | None = None  # where there is one in this process

    @abstractmethod
    def parts(
        self, records: Iterator[Record], ledger: Ledger, job: Job, report: Callable[[int], None]
    ) -> Generator[list[Row], None, None]:
        """The rows of each part, in order and noted in the ledger.

        `report` may be told how many records of the next part are done. Raises EngineError.
        """


class LocalEngine(Engine):
    """Decodes on all cores and encodes on a few threads: decoding runs ahead, across the border of parts.

    Several encoders have the same model, each on a device of its own. A batch is whoever's is free; it has the same
    pictures, and its vectors the same place, however many there are.
    """

    def __init__(self, *encoders: Encoder, jpegs: DeviceJpegs | None = None) -> None:
        """`jpegs` decodes those that it can. Raises EngineError where the encoders compute differently."""
        first = encoders[0]
        if len(kinds := sorted(set(map(arithmetic_of, encoders)))) > 1:
            raise EngineError(
                f"the devices compute in {' and in '.join(kinds)}: give a --precision and a --runtime that all of them "
                "have"
            )
        self._decode = jpegs or (lambda _: None)
        self.reference, self.fingerprint, self.dim = first.reference, first.fingerprint, first.dim
        self.arithmetic = arithmetic_of(first) + (", JPEGs decoded on the GPU" if jpegs else "")
        self.batch = first.batch
        self.encoder: Encoder = first
        # A call occupies two streams of an encoder: pictures are cut in halves of a batch.
        calls = [encoder for encoder in encoders for _ in range(max(1, encoder.streams // 2))]
        self._count = len(calls)
        self._free: SimpleQueue[Encoder] = SimpleQueue()
        for encoder in calls:
            self._free.put(encoder)

    def parts(
        self, records: Iterator[Record], ledger: Ledger, job: Job, report: Callable[[int], None]
    ) -> Generator[list[Row], None, None]:
        pool = ThreadPoolExecutor(self._count, thread_name_prefix="encoder")
        try:
            with closing(self._decoded(records, job)) as decoded:  # at once, not when a traceback lets go of it
                while rows := self._encode(islice(decoded, job.part_size), ledger, job, report, pool):
                    ledger.note(rows)
                    yield rows
        finally:
            pool.shutdown(cancel_futures=True)

    def _with_one(self, encode: Callable[[Encoder], Floats]) -> Floats:
        encoder = self._free.get()
        try:
            return encode(encoder)
        finally:
            self._free.put(encoder)

    def _decoded(self, records: Iterator[Record], job: Job) -> Generator[Read[Pixels], None, None]:
        size, prepare = self.encoder.image_size, self.encoder.prepare
        # Readers wait for files, and then in line for a core: with a semaphore, some waited until all others were done.
        computing = ThreadPoolExecutor(cores(), thread_name_prefix="decoder")
        readers = ThreadPoolExecutor(_READERS, thread_name_prefix="reader")

        def compute(work: Callable[[], Read[Pixels]]) -> Read[Pixels]:
            return computing.submit(work).result()

        def submit(record: Record) -> Future[Read[Pixels]]:
            return readers.submit(read_row, record, size, prepare, job.thumbnails, compute, self._decode)

        try:
            queue = deque(map(submit, islice(records, job.batch_size * (self._count + 3))))
            while queue:
                done = queue.popleft().result()
                queue.extend(map(submit, islice(records, 1)))
                yield done
        finally:
            readers.shutdown(cancel_futures=True)  # the web may take its time
            computing.shutdown()

    def _encode(
        self,
        decoded: Iterable[Read[Pixels]],
        ledger: Ledger,
        job: Job,
        report: Callable[[int], None],
        pool: ThreadPoolExecutor,
    ) -> list[Row]:
        rows: list[Row] = []
        waiting: list[tuple[Row, Pixels]] = []
        encoding: deque[tuple[list[Row], Future[Floats]]] = deque()
        choice = Choice(ledger)

        def flush() -> None:
            pixels = np.stack([pixels for _, pixels in waiting])
            found = pool.submit(self._with_one, methodcaller("encode_pixels", pixels))
            encoding.append(([row for row, _ in waiting], found))
            waiting.clear()
            settle(self._count + 1)  # the next one lies ready

        def settle(left: int) -> None:
            while len(encoding) > left:
                batch, found = encoding.popleft()
                for row, vector in zip(batch, found.result(), strict=True):
                    row["vector"] = pack(vector)
                report(len(rows))

        for row, pixels, small in decoded:
            rows.append(row)
            if pixels is not None and choice.takes(row):
                row["thumbnail"] = small
                waiting.append((row, pixels))
                if len(waiting) == job.batch_size:
                    flush()
        if waiting:
            flush()
        fresh = new_texts(rows, ledger) if job.captions else {}
        said = [pool.submit(self._with_one, methodcaller("encode_texts", texts)) for texts in cut(list(fresh))]
        settle(0)
        add_texts(rows, fresh, chain.from_iterable(found.result() for found in said))
        return rows
