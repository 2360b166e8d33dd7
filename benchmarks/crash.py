"""Kill the indexer, training or export at every call that touches the disk and at random times; fill its disk.

After each: the snapshot that was live opens and verifies, or the last checkpoint and the last model do, and the same
command run again ends as if nothing had been. A write is torn: half of it reaches the file. Calls are Python's: what
native code writes (safetensors, OpenVINO) is struck by the random times alone. Or (--of files) damage each file.
"""

from __future__ import annotations

import argparse
import builtins
import errno
import io
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dual_encoder import files, load_encoder
from indexer import add_to_index, build_index, compact_index, remove_from_index
from vector_index import IndexDirectory

# What changes a disk; files that are opened to write count their writes too.
CALLS = [
    *((os, name) for name in ("fsync", "rename", "replace", "link", "mkdir", "unlink", "rmdir")),
    (io, "open"),
    (builtins, "open"),
    (files, "_swap"),  # of two folders, a call that Python does not have
]


_CALLS_TRIED = 300  # of a command: writing a checkpoint alone is hundreds of small writes


@dataclass(frozen=True)
class Fault:
    """Kill the process, or tell it that the disk is full: at the n-th call, or kill it after some seconds."""

    call: int = 0
    seconds: float = 0.0
    full: bool = False

    def __str__(self) -> str:
        what = "disk full" if self.full else "killed"
        return f"{what} at call {self.call}" if self.call else f"killed after {self.seconds * 1000:.0f} ms"


def picture(seed: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def corpus(folder: Path, numbers: range) -> Path:
    """A table of small pictures, two captions each, one of them shared."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in numbers:
        (folder / f"{number}.jpg").write_bytes(picture(number))
        rows.append(
            {"image": f"{number}.jpg", "id": f"p{number}", "caption": [f"picture {number}", "all"], "n": number}
        )
    table = folder / "table.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    return table


class Scenario(ABC):
    """A folder to begin with, commands that change it, and what each should come to."""

    commands: dict[str, Callable[[Path], object]]
    base: Path

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prepare()
        self.before = self.content_of(self.base)
        self.expected: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        for name in self.commands:
            place = self.fresh()
            began = time.monotonic()
            if self.run(name, place, Fault()) != 0:
                raise RuntimeError(f"{name} fails without a fault")
            self.seconds[name] = time.monotonic() - began
            self.calls[name] = int((self.folder / "calls").read_text())
            self.expected[name] = self.content_of(place)
            shutil.rmtree(place.parent)

    @abstractmethod
    def prepare(self) -> None:
        """Make `base` and `commands`."""

    @abstractmethod
    def content_of(self, place: Path) -> Any:
        """All that counts in a folder, and that compares equal. Raises where it cannot be read."""

    @abstractmethod
    def litter(self, place: Path) -> list[str]:
        """What a command that has ended should not have left."""

    def may_be_left(self, name: str, content: Any) -> bool:
        """Whether a command that was struck may leave this."""
        return content in (self.before, self.expected[name])

    def fresh(self) -> Path:
        """A copy of the folder to begin with."""
        place = Path(tempfile.mkdtemp(dir=self.folder)) / "place"
        shutil.copytree(self.base, place)
        return place

    def run(self, name: str, place: Path, fault: Fault) -> int:
        """Run a command with a fault: the process' exit status, negative for a signal."""
        return self.in_child(lambda: self.commands[name](place), fault)

    def in_child(self, work: Callable[[], object], fault: Fault | None = None) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                made = inject(fault) if fault is not None else itertools.count()
                work()
                calls = next(made) - 1
                (self.folder / "calls").write_text(str(calls))
                os._exit(0)
            except BaseException as error:
                os._exit(3 if is_told(error) else 4)
        if fault is not None and fault.seconds:
            time.sleep(fault.seconds)
            os.kill(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def check(self, name: str, fault: Fault) -> tuple[bool, str]:
        """Strike, look, go on, look again: whether the fault struck, and what was wrong, nothing if all was well."""
        place = self.fresh()
        try:
            status = self.run(name, place, fault)
            struck = status != 0
            if status not in (0, 3 if fault.full else -signal.SIGKILL):
                return struck, f"exit status {status}"
            if not self.may_be_left(name, self.content_of(place)):
                return struck, "what is left is neither the old nor the new"
            if (again := self.run(name, place, Fault())) != 0:
                return struck, f"run again: exit status {again}"
            if self.content_of(place) != self.expected[name]:
                return struck, "run again: not what an uninterrupted run gives"
            litter = self.litter(place)
            return struck, f"left behind: {litter}" if litter else ""
        except Exception as error:
            return True, repr(error)
        finally:
            shutil.rmtree(place.parent, ignore_errors=True)


def is_told(error: BaseException) -> bool:
    """Whether a user would be told of it in a line."""
    ours = type(error).__module__.split(".")[0] in ("dual_encoder", "indexer", "training", "vector_index")
    return isinstance(error, OSError) or (ours and "No space left" in str(error))


class Indexing(Scenario):
    """An index, and what builds and changes it."""

    def prepare(self) -> None:
        folder = self.folder
        self.first = corpus(folder / "corpus", range(24))
        self.second = corpus(folder / "more", range(16, 40))
        shutil.copytree(folder / "more", folder / "corpus", dirs_exist_ok=True, ignore=lambda *_: ["table.jsonl"])
        self.second = folder / "corpus" / "second.jsonl"
        shutil.copy(folder / "more" / "table.jsonl", self.second)
        self.commands: dict[str, Callable[[Path], object]] = {
            "build": lambda index: build_index(self.second, index, load_encoder("tiny"), part_size=6, batch_size=3),
            "add": lambda index: add_to_index(
                self.second, index, load_encoder("tiny"), prune=True, part_size=6, batch_size=3
            ),
            "remove": lambda index: remove_from_index(
                index, lambda s: [s.images.row_of(id) for id in ("p3", "p20") if _has(s, id)]
            ),
            "compact": compact_index,
        }
        self.base = folder / "base"
        self.in_child(lambda: build_index(self.first, self.base, load_encoder("tiny"), part_size=8, batch_size=4))
        self.in_child(lambda: remove_from_index(self.base, lambda s: [s.images.row_of("p0"), s.images.row_of("p21")]))

    def content_of(self, place: Path) -> dict[str, Any]:
        """All that the live snapshot says, whatever order it is in; it must verify."""
        return content_of(place)

    def litter(self, place: Path) -> list[str]:
        return [path.name for path in (*place.glob("snapshots/.*"), *place.glob(".build"))]


def inject(fault: Fault) -> Iterator[int]:
    """Have the n-th call that touches the disk go wrong, in this process; returns what counts them."""
    counter, first = itertools.count(1), threading.current_thread()

    def due() -> bool:
        """Other threads (TensorBoard's) would make the count another each time."""
        return threading.current_thread() is first and next(counter) == fault.call

    def strike(where: object) -> None:
        if fault.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(where))
        os.kill(os.getpid(), signal.SIGKILL)

    def struck(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if due():
                strike(args[0])
            return original(*args, **options)

        return call

    def struck_open(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            mode = str(args[1] if len(args) > 1 else options.get("mode", "r"))
            if args[0] == os.devnull or not any(letter in mode for letter in "wax+"):
                return original(*args, **options)
            if due():
                strike(args[0])
            return _File(original(*args, **options), due, strike)

        return call

    for module, name in CALLS:
        setattr(module, name, (struck_open if name == "open" else struck)(getattr(module, name)))
    return counter


class _File:
    """A file whose writes can go wrong."""

    def __init__(self, file: Any, due: Callable[[], bool], strike: Callable[[object], None]) -> None:
        self._file, self._due, self._strike = file, due, strike

    def write(self, data: Any) -> Any:
        if self._due():
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            self._strike(self._file.name)
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


def content_of(index: Path) -> dict[str, Any]:
    """All that the live snapshot says, whatever order it is in; it must verify."""
    with IndexDirectory(index).open() as snapshot:
        if problems := snapshot.verify():
            raise AssertionError("; ".join(problems))
        pictures = {}
        rows = snapshot.images.live()
        columns = snapshot.images.take(rows).to_pylist()
        for row, item, vector in zip(rows.tolist(), columns, snapshot.images.vectors(rows), strict=True):
            places = sorted({item.pop("uri"), *(item.pop("duplicate_uris") or ())})
            captions = sorted(item.pop("captions") or ())
            pictures[item.pop("id")] = {
                "places": places, "captions": captions, "vector": vector.round(3).tolist(),
                "thumbnail": snapshot.thumbnail(row),
                "more": {name: value for name, value in item.items() if value is not None},
            }  # fmt: skip
        rows = snapshot.texts.live()
        texts = {
            item["text"]: (sorted(item["image_ids"]), vector.round(3).tolist())
            for item, vector in zip(snapshot.texts.take(rows).to_pylist(), snapshot.texts.vectors(rows), strict=True)
        }
        return {"pictures": pictures, "texts": texts}


def _has(snapshot: Any, id: str) -> bool:
    try:
        return snapshot.images.row_of(id) >= 0
    except Exception:
        return False


def faults(scenario: Scenario, points: int | None, seed: int, only: str | None = None) -> Iterator[tuple[str, Fault]]:
    """`points` of: every call of every command (300 of them, where there are more), killed and with a full disk, and
    half as many random times. The commands take turns, or there is `only` one.
    """
    chance = random.Random(seed)
    turns = []
    for name, calls in scenario.calls.items():
        tried = [Fault(call=call, full=full) for call in _some(calls, chance) for full in (False, True)]
        tried += [Fault(seconds=chance.uniform(0, scenario.seconds[name])) for _ in range(len(tried) // 2)]
        chance.shuffle(tried)
        turns.append([(name, fault) for fault in tried if only in (None, name)])
    every = [each for turn in itertools.zip_longest(*turns) for each in turn if each is not None]
    yield from every[:points]


def _some(calls: int, chance: random.Random) -> list[int]:
    return chance.sample(range(1, calls + 1), min(calls, _CALLS_TRIED))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--of", choices=["index", "model", "files"], default="index", help="what is built, or damaged")
    options.add_argument("--only", help="this command of those that are struck, such as build or export")
    options.add_argument("--points", type=int, help="of all that there are")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.of == "files":
            from benchmarks.crash_files import damages

            damaged = list(damages(Path(folder), given.seed))
            wrong = [f"{what}: {problem}" for what, problem in damaged if problem]
            print(*wrong, f"{len(damaged)} damages tried, {len(wrong)} not told, or served as something else", sep="\n")
            sys.exit(bool(wrong))
        scenario: Scenario
        if given.of == "model":
            from benchmarks.crash_model import Modelling

            scenario = Modelling(Path(folder))
        else:
            scenario = Indexing(Path(folder))
        if given.only not in (None, *scenario.commands):
            options.error(f"--only {given.only}: choose from {', '.join(scenario.commands)}")
        tried = struck = wrong = 0
        for name, fault in faults(scenario, given.points, given.seed, given.only):
            hit, problem = scenario.check(name, fault)
            tried, struck = tried + 1, struck + hit
            if problem:
                wrong += 1
                print(f"{name}, {fault}: {problem}", flush=True)
            if sys.stderr.isatty() or tried % 10 == 0:
                print(f"{tried} tried, {struck} struck, {wrong} wrong", flush=True)
    print(f"{tried} faults tried, {struck} struck before the command had ended, {wrong} left something lost or wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
