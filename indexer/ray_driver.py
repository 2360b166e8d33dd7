"""The process that speaks to Ray: `python -m indexer.ray_driver FD`, started by RayEngine at the other end of a pipe.

Ray ends the process that is connected to a cluster when the cluster vanishes, and waits for minutes for one that is
not there: in a process of its own it does neither to the build.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from indexer.engine import Job
from indexer.ray_worker import Hello, Worker

_ATTEMPTS = 4  # of a part: a picture that kills its worker kills no more of them
_PARTS = 2  # a worker: one is read while the other is encoded
_CPUS = 4  # a worker without a GPU: more of them gain more than more threads in each
_BEAT = 5.0  # seconds


@dataclass(frozen=True)
class Options:
    """What RayEngine asks for; the times are in seconds."""

    address: str
    model: str
    device: str
    runtime: str
    precision: str
    workers: int | None
    patience: float  # without any worker
    call: float  # for one part in one worker


class Lost(Exception):
    """Why no more can be done, in a line."""


@dataclass(eq=False)
class _Member:
    """A worker and the parts that it has; `up` from its hello until a call to it fails."""

    actor: Any
    up: bool = False
    host: str = ""
    parts: set[int] = field(default_factory=set)


def sizes(nodes: list[dict[str, float]], device: str, workers: int | None) -> tuple[int, dict[str, int]]:
    """How many workers, and what Ray is asked for each: a GPU and its share of the cores, or some cores.

    `nodes` are the resources of each; where there are none yet, the cluster may grow when it is asked.
    """
    gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    if device.startswith("cuda") or (device == "auto" and gpus):
        share = min((int(node.get("CPU", 1) // node["GPU"]) for node in gpus), default=1)
        count = sum(int(node["GPU"]) for node in gpus)
        return workers or max(1, count), {"num_cpus": max(1, share), "num_gpus": 1}
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    cpus = min([_CPUS, *cores])
    count = sum(core // cpus for core in cores)
    return workers or max(1, count), {"num_cpus": cpus, "num_gpus": 0}


class _Crew:
    """The workers. A part that fails with one goes to another at once; Ray restarts the one that failed."""

    def __init__(self, options: Options, connection: Connection) -> None:
        import ray

        self._ray, self._options, self._connection = ray, options, connection
        self._changed = asyncio.Condition()
        self._choices: dict[int, asyncio.Future[tuple[list[int], list[str]]]] = {}
        self._unfinished: set[int] = set()
        self._model: tuple[str, int, str] | None = None
        self._seen = time.monotonic()  # when a worker was there
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        count, resources = sizes(nodes, options.device, options.workers)
        kind = ray.remote(
            max_restarts=-1, max_task_retries=0, max_concurrency=_PARTS + 2, scheduling_strategy="SPREAD", **resources
        )(Worker)
        device = "cpu" if not resources["num_gpus"] else options.device if options.device != "auto" else "cuda"
        told = (options.model, device, options.runtime, options.precision, resources["num_cpus"])
        self._members = [_Member(kind.remote(*told)) for _ in range(count)]

    async def work(self, inbox: asyncio.Queue[Any]) -> None:
        """Until the other end closes the pipe. Raises Lost."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self._watch())
                for member in self._members:
                    self._tasks.create_task(self._join(member))
                while (message := await inbox.get()) is not None:
                    number, *told = message
                    if number in self._choices:
                        self._choices.pop(number).set_result((told[0], told[1]))
                    else:
                        self._choices[number] = asyncio.get_running_loop().create_future()
                        self._unfinished.add(number)
                        self._tasks.create_task(self._part(number, told[0], told[1], self._choices[number]))
                raise Lost
        except* Lost as lost:
            raise lost.exceptions[0] from None

    async def _part(
        self, number: int, packed: bytes, job: Job, choice: asyncio.Future[tuple[list[int], list[str]]]
    ) -> None:
        member, rows = await self._call(None, number, "read", packed, job)
        self._connection.send(("read", number, rows, member.host))
        member, encoded = await self._call(member, number, "encode", packed, job, *await choice)
        self._unfinished.discard(number)
        async with self._changed:
            self._changed.notify_all()
        self._connection.send(("encoded", number, encoded))

    async def _call(self, member: _Member | None, number: int, method: str, *told: Any) -> tuple[_Member, Any]:
        """Ask `member`, or whoever has room, and another one if that fails."""
        for _ in range(_ATTEMPTS):
            if member and not member.up:
                member.parts.discard(number)
            if not (member and member.up):
                member = await self._free(number)
            try:
                answer = getattr(member.actor, method).remote(number, *told).future()
                done = await asyncio.wait_for(asyncio.wrap_future(answer), self._options.call)
            except self._ray.exceptions.RayTaskError as error:
                raise Lost(f"a worker on {member.host} failed: {_line(error)}") from None
            except self._ray.exceptions.RayError as error:
                why = f"{type(error).__name__}: {_line(error)}"
            except TimeoutError:
                why = f"no answer for {self._options.call:.0f} s"
                self._ray.kill(member.actor, no_restart=False)
            else:
                if method == "encode":
                    member.parts.discard(number)
                return member, done
            member.parts.discard(number)
            if member.up:
                member.up = False
                self._tasks.create_task(self._join(member))
            member = None
        raise Lost(f"part {number} was lost by {_ATTEMPTS} workers one after the other; the last: {why}")

    async def _free(self, number: int) -> _Member:
        """The least busy worker. What all others wait for, the first unfinished part, waits for no room."""

        def find() -> _Member | None:
            up = [member for member in self._members if member.up]
            least = min(up, key=lambda member: len(member.parts), default=None)
            return least if least and (len(least.parts) < _PARTS or number == min(self._unfinished)) else None

        async with self._changed:
            while (found := find()) is None:
                await self._changed.wait()
            found.parts.add(number)
            return found

    async def _join(self, member: _Member) -> None:
        """Wait until a worker is there, for the first time or again."""
        while True:
            try:
                hello: Hello = await asyncio.wrap_future(member.actor.hello.remote().future())
                break
            except (self._ray.exceptions.ActorDiedError, self._ray.exceptions.RayTaskError) as error:
                raise Lost(f"a worker cannot start: {_line(error)}") from None
            except self._ray.exceptions.RayError:  # it is being restarted
                await asyncio.sleep(0.5)
        if hello.error:
            raise Lost(f"a worker on {hello.host} cannot start: {hello.error}")
        model = (hello.fingerprint, hello.dim, hello.arithmetic)
        if self._model is None:
            self._model = model
            self._connection.send(("ready", *model, hello.batch, len(self._members)))
        elif model[:2] != self._model[:2]:
            raise Lost(f"on {hello.host} the model {self._options.model} is another one than on the other machines")
        elif model != self._model:
            raise Lost(
                f"{hello.host} computes in {hello.arithmetic}, other machines in {self._model[2]}: give a --precision "
                "and a --runtime that all of them have"
            )
        member.host, member.up = hello.host, True
        async with self._changed:
            self._changed.notify_all()

    async def _watch(self) -> NoReturn:
        """Tell the other end that this process lives, and give up when no worker does."""
        while True:
            if any(member.up for member in self._members):
                self._seen = time.monotonic()
            elif time.monotonic() - self._seen > self._options.patience:
                has = ", ".join(f"{value:g} {name}" for name in ("CPU", "GPU") if (value := self._has(name)))
                raise Lost(
                    f"no worker was there for {self._options.patience:.0f} s; the cluster has {has or 'nothing'}"
                )
            self._connection.send(("alive",))
            await asyncio.sleep(min(_BEAT, self._options.patience / 4))

    def _has(self, name: str) -> int:
        return int(sum(node["Resources"].get(name, 0) for node in self._ray.nodes() if node["Alive"]))


def _line(error: BaseException) -> str:
    """What a long message of Ray's says at its end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


async def _serve(options: Options, connection: Connection) -> None:
    loop, inbox = asyncio.get_running_loop(), asyncio.Queue[Any]()

    def listen() -> None:
        message: Any = ...
        while message is not None:
            try:
                message = connection.recv()
            except (EOFError, OSError):
                message = None
            loop.call_soon_threadsafe(inbox.put_nowait, message)

    threading.Thread(target=listen, daemon=True).start()
    await _Crew(options, connection).work(inbox)


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    options: Options = connection.recv()
    import ray

    connection.send(("imported",))
    try:
        ray.init(address=options.address, log_to_driver=False, logging_level="ERROR")
        connection.send(("connected",))
        asyncio.run(_serve(options, connection))
    except Exception as error:
        told = (
            str(error) if isinstance(error, Lost) else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        )
        with suppress(OSError):
            connection.send(("failed", told))
    finally:
        # Leaving a cluster that is not there takes for ever.
        timer = threading.Timer(10, os._exit, (1,))
        timer.daemon = True
        timer.start()
        ray.shutdown()


if __name__ == "__main__":
    main()
