"""What `python -m benchmarks.crash --of files` does to a snapshot and a model: each file in turn is damaged."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.crash import corpus
from dual_encoder import ModelError, load_encoder
from dual_encoder.record import check_weights
from dual_encoder.reference import TINY
from indexer import add_to_index, build_index, remove_from_index
from vector_index import IndexDirectory, VectorIndexError

_FLIPS = 16  # of one bit, each by itself, in every file


def damages(folder: Path, seed: int) -> Iterator[tuple[str, str]]:
    """What was done to which file, and what was wrong then, nothing if it was told or did no harm."""
    chance = random.Random(seed)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    index, model = folder / "index", Path(shutil.copytree(TINY, folder / "model"))
    encoder = load_encoder(str(model), device="cpu")
    build_index(corpus(folder / "corpus", range(24)), index, encoder)
    add_to_index(corpus(folder / "corpus", range(24, 28)), index, encoder)
    remove_from_index(index, lambda snapshot: [0])
    directory = IndexDirectory(index)
    name = directory.current()
    assert name is not None

    def opened() -> str:
        with directory.open() as snapshot:
            problems = snapshot.check_files()
        return "" if problems else directory.current() or ""

    def encoded() -> object:
        check_weights(model)
        return load_encoder(str(model), device="cpu").encode_texts(["a red star"]).tolist()

    for path in (index / "CURRENT", *sorted((directory.snapshots / name).iterdir())):
        yield from _each(path, opened, chance)
    for path in sorted(model.iterdir()):
        yield from _each(path, encoded, chance)
    for path in sorted((folder / "cache").rglob("*.blob")):
        yield from _each(path, encoded, chance)


def _each(path: Path, read: Callable[[], object], chance: random.Random) -> Iterator[tuple[str, str]]:
    content, whole = path.read_bytes(), read()
    bits = [chance.randrange(8 * len(content)) for _ in range(_FLIPS if content else 0)]
    for what in ("gone", "empty", "cut short", *bits):
        if what == "gone":
            if path.name == "model.json":
                continue  # without it a directory is none that was exported, and is exported into the cache
            path.unlink()
        elif what == "empty":
            path.write_bytes(b"")
        elif what == "cut short":
            path.write_bytes(content[: len(content) // 2])
        else:
            damaged = bytearray(content)
            damaged[int(what) // 8] ^= 1 << int(what) % 8
            path.write_bytes(damaged)
        shown = f"{path.name}, {what if isinstance(what, str) else f'bit {what} flipped'}"
        try:
            found = read()
            yield shown, "" if found in (whole, "") else "not noticed, and read as something else"
        except (ModelError, VectorIndexError):
            yield shown, ""
        except Exception as error:
            yield shown, f"not told in a line: {error!r}"
        path.write_bytes(content)
