"""Kill the indexer on purpose, at every call that touches the disk and at times drawn from a seed; fill its disk.

After each: the snapshot that was live opens and verifies, and the same command run again ends as if nothing had been.
"""

from __future__ import annotations

import argparse
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
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dual_encoder import load_encoder
from indexer import add_to_index, build_index, compact_index, remove_from_index
from vector_index import IndexDirectory

# What changes a disk, as the indexer calls it.
CALLS = [(os, name) for name in ("fsync", "rename", "replace", "link", "mkdir", "unlink", "rmdir")] + [(io, "open")]


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


class Scenario:
    """An index to begin with, commands that change it, and what each should come to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
        self.before = content_of(self.base)
        self.expected: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        for name in self.commands:
            index = self.fresh()
            began = time.monotonic()
            if self.run(name, index, Fault()) != 0:
                raise RuntimeError(f"{name} fails without a fault")
            self.seconds[name] = time.monotonic() - began
            self.calls[name] = int((self.folder / "calls").read_text())
            self.expected[name] = content_of(index)
            shutil.rmtree(index.parent)

    def fresh(self) -> Path:
        """A copy of the index to begin with."""
        index = Path(tempfile.mkdtemp(dir=self.folder)) / "index"
        shutil.copytree(self.base, index)
        return index

    def run(self, name: str, index: Path, fault: Fault) -> int:
        """Run a command with a fault: the process' exit status, negative for a signal."""
        return self.in_child(lambda: self.commands[name](index), fault)

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
            except OSError:
                os._exit(3)
            except BaseException:
                os._exit(4)
        if fault is not None and fault.seconds:
            time.sleep(fault.seconds)
            os.kill(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def check(self, name: str, fault: Fault) -> tuple[bool, str]:
        """Strike, look, go on, look again: whether the fault struck, and what was wrong, nothing if all was well."""
        index = self.fresh()
        try:
            status = self.run(name, index, fault)
            struck = status != 0
            if status not in (0, 3 if fault.full else -signal.SIGKILL):
                return struck, f"exit status {status}"
            left = content_of(index)
            if left not in (self.before, self.expected[name]):
                return struck, "the live snapshot is neither the old one nor the new one"
            if (again := self.run(name, index, Fault())) != 0:
                return struck, f"run again: exit status {again}"
            if content_of(index) != self.expected[name]:
                return struck, "run again: not what an uninterrupted run gives"
            litter = [path.name for path in index.glob("snapshots/.*")] + [p.name for p in index.glob(".build")]
            return struck, f"left behind: {litter}" if litter else ""
        except Exception as error:
            return True, repr(error)
        finally:
            shutil.rmtree(index.parent, ignore_errors=True)


def inject(fault: Fault) -> Iterator[int]:
    """Have the n-th call that touches the disk go wrong, in this process; returns what counts them."""
    counter = itertools.count(1)

    def struck(original: Callable[..., Any], writes: Callable[..., bool]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if writes(*args, **options) and next(counter) == fault.call:
                if fault.full:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        return call

    def opens_to_write(*args: Any, **options: Any) -> bool:
        mode = args[1] if len(args) > 1 else options.get("mode", "r")
        return any(letter in str(mode) for letter in "wax+")

    def always(*_: Any, **__: Any) -> bool:
        return True

    for module, name in CALLS:
        setattr(module, name, struck(getattr(module, name), opens_to_write if name == "open" else always))
    return counter


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


def faults(scenario: Scenario, points: int | None, seed: int) -> Iterator[tuple[str, Fault]]:
    """Every call of every command, killed and with a full disk, and half as many random times: `points` of them."""
    chance = random.Random(seed)
    every = [
        (name, Fault(call=call, full=full))
        for name, calls in scenario.calls.items()
        for call in range(1, calls + 1)
        for full in (False, True)
    ]
    every += [
        (name, Fault(seconds=chance.uniform(0, scenario.seconds[name])))
        for name in (chance.choice(list(scenario.commands)) for _ in range(len(every) // 2))
    ]
    chance.shuffle(every)
    yield from every[:points]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--points", type=int, help="of all that there are")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(Path(folder))
        tried = struck = wrong = 0
        for name, fault in faults(scenario, given.points, given.seed):
            hit, problem = scenario.check(name, fault)
            tried, struck = tried + 1, struck + hit
            if problem:
                wrong += 1
                print(f"{name}, {fault}: {problem}", flush=True)
            if sys.stderr.isatty() or tried % 50 == 0:
                print(f"{tried} tried, {struck} struck, {wrong} wrong", flush=True)
    print(f"{tried} faults tried, {struck} struck before the command had ended, {wrong} left something lost or wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
