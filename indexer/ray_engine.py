"""A build on a Ray cluster: its machines read and encode, this process keeps order, duplicates and finished parts."""

from __future__ import annotations

import importlib.util
import pickle
import re
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import Pipe
from typing import Any, Self

from corpus import Record
from dual_encoder.reference import parse_reference
from indexer.engine import Engine, EngineError, Job
from indexer.ledger import Ledger
from indexer.ray_driver import Options
from indexer.ray_worker import Encoded
from indexer.rows import UNREADABLE, Choice, Row, add_texts, new_texts, pack

_IMPORT = 120.0  # seconds, for Ray's import on a busy machine
_PROBE = 5.0
_SILENCE = 120.0
_ASKED = 16  # unreadable pictures a part that are tried here


@dataclass
class _Flight:
    """A part on its way: sent; read, when it has rows; chosen; encoded."""

    number: int
    records: list[Record]
    rows: list[Row] = field(default_factory=list)
    chosen: list[int] | None = None
    texts: dict[str, int] = field(default_factory=dict)
    encoded: bool = False

    def choose(self, ledger: Ledger) -> None:
        """What is to be encoded, all earlier parts having chosen."""
        choice = Choice(ledger)
        self.chosen = [place for place, row in enumerate(self.rows) if choice.takes(row)]
        self.texts = new_texts(self.rows, ledger)
        for place in self.chosen:
            self.rows[place]["vector"] = b""  # to come: the ledger tells a new picture by it
        ledger.note(self.rows)

    def fill(self, encoded: Encoded) -> None:
        for place, vector, small in zip(self.chosen or [], encoded.vectors, encoded.thumbnails, strict=True):
            self.rows[place] |= {"vector": pack(vector), "thumbnail": small}
        add_texts(self.rows, self.texts, encoded.text_vectors)
        self.encoded = True


class RayEngine(Engine):
    """Workers, one a GPU or a few cores, hold the encoder and read the pictures themselves, from storage they share.

    The result is the local engine's: the same pictures are encoded in the same batches. Parts that a worker or a
    machine takes down with it are done again by others. At most two parts a worker, and two more, are on their way.

    `address` is auto (the cluster this machine belongs to, or $RAY_ADDRESS) or HOST:PORT. In seconds: `patience` is how
    long there may be no worker at all, at first and later; `call_timeout` how long a worker may take to read or encode
    a part. It serves one build; use it as a context manager.
    Raises EngineError, ModelError.
    """

    def __init__(
        self,
        model: str,
        *,
        address: str = "auto",
        device: str = "auto",
        runtime: str = "auto",
        precision: str = "auto",
        workers: int | None = None,
        patience: float = 300.0,
        call_timeout: float = 1800.0,
        connect_timeout: float = 20.0,
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise EngineError("the engine ray needs Ray: pip install 'crossmodal[ray]'")
        _probe(address)
        parsed = parse_reference(model)
        self.reference = parsed.name
        if parsed.directory and model != "tiny":
            model = str(parsed.directory)
        self._address = address
        self._pipe, theirs = Pipe()
        command = [sys.executable, "-m", "indexer.ray_driver", str(theirs.fileno())]
        self._driver = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        theirs.close()
        try:
            self._pipe.send(Options(address, model, device, runtime, precision, workers, patience, call_timeout))
            self._expect("imported", _IMPORT, "Ray cannot be imported")
            self._expect("connected", connect_timeout, f"no Ray cluster answers at {address}")
            ready = self._expect("ready", patience + 60, "no worker of Ray's starts")
            self.fingerprint, self.dim, self.arithmetic, self.batch, self.workers = ready
        except BaseException:
            self._driver.kill()
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the cluster go: the workers end."""
        self._pipe.close()
        try:
            self._driver.wait(15)
        except subprocess.TimeoutExpired:
            self._driver.kill()
            self._driver.wait()

    def parts(
        self, records: Iterator[Record], ledger: Ledger, job: Job, report: Callable[[int], None]
    ) -> Generator[list[Row], None, None]:
        flying: deque[_Flight] = deque()
        self._send_more(flying, 0, records, job)
        while flying:
            while not flying[0].encoded:
                self._take(flying, ledger)
            flight = flying.popleft()
            self._send_more(flying, flight.number + 1 + len(flying), records, job)
            yield flight.rows
        self.close()  # the cluster is not kept while the index is built

    def _send_more(self, flying: deque[_Flight], number: int, records: Iterator[Record], job: Job) -> None:
        while len(flying) < 2 * self.workers + 2 and (some := list(islice(records, job.part_size))):
            self._send((number, pickle.dumps(some), job))
            flying.append(_Flight(number, some))
            number += 1

    def _take(self, flying: deque[_Flight], ledger: Ledger) -> None:
        """One message; then choose from every part that has been read and whose turn it is."""
        kind, number, found, *host = self._receive()
        flight = flying[number - flying[0].number]
        if kind == "encoded":
            flight.fill(found)
            return
        flight.rows = found
        _check(flight.records, found, host[0])
        for flight in flying:
            if flight.chosen is None:
                if not flight.rows:
                    break
                flight.choose(ledger)
                self._send((flight.number, flight.chosen, list(flight.texts)))

    def _send(self, message: Any) -> None:
        try:
            self._pipe.send(message)
        except OSError:
            while True:  # what it said before it ended
                self._receive()

    def _receive(self) -> Any:
        """The next message but signs of life. Raises EngineError."""
        with suppress(EOFError, OSError):
            while self._pipe.poll(_SILENCE):
                message = self._pipe.recv()
                if message[0] == "failed":
                    raise EngineError(f"Ray at {self._address}: {message[1]}; finished parts are kept")
                if message[0] != "alive":
                    return message
        raise EngineError(
            f"the Ray cluster at {self._address} is gone; finished parts are kept: the same command goes on from them"
        )

    def _expect(self, kind: str, seconds: float, otherwise: str) -> Any:
        """A message of the start. Raises EngineError."""
        deadline = time.monotonic() + seconds
        with suppress(EOFError, OSError):
            while self._pipe.poll(max(0.0, deadline - time.monotonic())):
                message = self._pipe.recv()
                if message[0] == "failed":
                    raise EngineError(f"{otherwise}: {message[1]}")
                if message[0] == kind:
                    return message[1:]
        raise EngineError(f"{otherwise} ({seconds:.0f} s waited)" if time.monotonic() >= deadline else otherwise)


def _check(records: list[Record], rows: list[Row], host: str) -> None:
    """A picture that only a worker cannot read is no reject: the corpus is not where the worker looks for it."""
    unreadable = (pair for pair in zip(records, rows, strict=True) if (pair[1]["reject"] or "").startswith(UNREADABLE))
    for record, row in islice(unreadable, _ASKED):
        with suppress(OSError, ValueError):
            record.read()
            reason = row["reject"].removeprefix(UNREADABLE)
            raise EngineError(
                f"{record.uri} can be read here, but not on {host} ({reason}): all machines must see the corpus alike"
            )


def _probe(address: str) -> None:
    """Find out at once what Ray would find out in two minutes. Raises EngineError."""
    if address == "auto":
        return
    found = re.fullmatch(r"\[?([^\s/\[\]]+)\]?:(\d{1,5})", address)
    if not found:
        raise EngineError(f"Ray's address {address!r} is neither auto nor HOST:PORT")
    try:
        socket.create_connection((found[1], int(found[2])), _PROBE).close()
    except (OSError, OverflowError) as error:
        raise EngineError(f"no Ray cluster answers at {address}: {getattr(error, 'strerror', None) or error}") from None
