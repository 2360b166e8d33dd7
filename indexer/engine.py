"""Where the pictures of a build are read and encoded: in this process, or elsewhere."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from threading import BoundedSemaphore
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corpus import Record
from dual_encoder.encoder import Runtime
from indexer.ledger import Ledger
from indexer.rows import Choice, Row, add_texts, new_texts, pack, read_row

_READERS = 32  # files asked for at a time: those of the web take their time to come


class Encoder(Protocol):
    """What building needs of a dual encoder."""

    reference: str
    fingerprint: str
    dim: int
    runtime: Runtime

    @property
    def image_size(self) -> tuple[int, int]: ...
    @property
    def preprocess(self) -> Callable[[Image.Image], NDArray[np.float32]]: ...
    def encode_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]: ...
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


class Engine(ABC):
    """Makes parts of records, with the model that these four tell of."""

    reference: str
    fingerprint: str
    dim: int
    arithmetic: str  # runtime and precision: vectors of two differ a little
    encoder: Encoder | None = None  # where there is one in this process

    @abstractmethod
    def parts(
        self, records: Iterator[Record], ledger: Ledger, job: Job, report: Callable[[int], None]
    ) -> Generator[list[Row], None, None]:
        """The rows of each part, in order and noted in the ledger.

        `report` may be told how many records of the next part are done. Raises EngineError.
        """


class LocalEngine(Engine):
    """Decodes on all cores and encodes in this thread: decoding runs ahead, across the border of parts."""

    def __init__(self, encoder: Encoder) -> None:
        self.reference, self.fingerprint, self.dim = encoder.reference, encoder.fingerprint, encoder.dim
        self.arithmetic = arithmetic_of(encoder)
        self.encoder: Encoder = encoder

    def parts(
        self, records: Iterator[Record], ledger: Ledger, job: Job, report: Callable[[int], None]
    ) -> Generator[list[Row], None, None]:
        decoded = self._decoded(records, job)
        while rows := self._encode(islice(decoded, job.part_size), ledger, job, report):
            ledger.note(rows)
            yield rows

    def _decoded(
        self, records: Iterator[Record], job: Job
    ) -> Iterator[tuple[Row, NDArray[np.float32] | None, bytes | None]]:
        size, prepare = self.encoder.image_size, self.encoder.preprocess
        cores = BoundedSemaphore(os.cpu_count() or 1)
        with ThreadPoolExecutor(_READERS, thread_name_prefix="reader") as readers:

            def submit(record: Record) -> Future[tuple[Row, NDArray[np.float32] | None, bytes | None]]:
                return readers.submit(read_row, record, size, prepare, job.thumbnails, cores)

            queue = deque(map(submit, islice(records, job.batch_size * 4)))
            while queue:
                done = queue.popleft().result()
                queue.extend(map(submit, islice(records, 1)))
                yield done

    def _encode(
        self,
        decoded: Iterable[tuple[Row, NDArray[np.float32] | None, bytes | None]],
        ledger: Ledger,
        job: Job,
        report: Callable[[int], None],
    ) -> list[Row]:
        rows: list[Row] = []
        waiting: list[tuple[Row, NDArray[np.float32]]] = []
        choice = Choice(ledger)

        def flush() -> None:
            vectors = self.encoder.encode_pixels(np.stack([pixels for _, pixels in waiting]))
            for (row, _), vector in zip(waiting, vectors, strict=True):
                row["vector"] = pack(vector)
            waiting.clear()
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
        if job.captions and (fresh := new_texts(rows, ledger)):
            add_texts(rows, fresh, self.encoder.encode_texts(list(fresh)))
        return rows
