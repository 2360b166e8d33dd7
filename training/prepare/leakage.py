"""The same picture, or nearly the same, in two splits: a test that training has seen."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from training.prepare.directory import FORMAT, MANIFEST, VERSION
from training.prepare.errors import PrepareError
from training.prepare.near_duplicates import Nearness


@dataclass(frozen=True)
class Leaks:
    """`pictures` lie in one split and have a near one in another; `losers` are those that would have to go."""

    pictures: list[int]
    losers: list[tuple[int, int]]  # (picture, one that it is near to in another split)


def find_leaks(nearness: Nearness, split: NDArray[Any], alive: NDArray[np.bool_], foreign: int) -> Leaks:
    """`split` (n,) numbers; from `foreign` on they are other data, which stay whatever happens.

    Of two splits the smaller keeps the picture: a test set is worth more than as many training pictures.
    """
    sizes = {int(s): int(c) for s, c in zip(*np.unique(split[alive], return_counts=True), strict=True)}
    near = nearness.neighbours()
    suspects = np.flatnonzero(alive & np.isin(nearness.group, _mixed(nearness.group[alive], split[alive])))
    members: dict[int, list[int]] = {}
    for picture in suspects.tolist():
        members.setdefault(int(nearness.cell[picture]), []).append(picture)
    leaking: set[int] = set()
    losers: dict[int, int] = {}
    for own, pictures in sorted(members.items()):
        for other in (own, *near.get(own, ())):
            if other < own or other not in members:
                continue
            both = pictures if other == own else pictures + members[other]
            parts = {int(split[p]) for p in both}
            if len(parts) < 2:
                continue
            leaking.update(both)
            keeps = min(parts, key=lambda s: (s < foreign, sizes[s], s))
            holder = next(p for p in both if split[p] == keeps)
            for picture in both:
                if split[picture] != keeps and split[picture] < foreign:
                    losers.setdefault(picture, holder)
    return Leaks(sorted(leaking), sorted(losers.items()))


def _mixed(group: NDArray[np.int64], split: NDArray[Any]) -> NDArray[np.int64]:
    """Groups with pictures of several splits."""
    pairs = np.unique(np.stack([group, split.astype(np.int64)], axis=1), axis=0)
    groups, counts = np.unique(pairs[:, 0], return_counts=True)
    return np.asarray(groups[counts > 1], dtype=np.int64)


def check_prepared(data: Path) -> dict[str, Any]:
    """The manifest of prepared data. Raises PrepareError where it is none."""
    try:
        manifest = json.loads((data / MANIFEST).read_bytes())
    except (OSError, ValueError):
        raise PrepareError(f"{data}: is not prepared data (no readable {MANIFEST})") from None
    if not isinstance(manifest, dict) or (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        raise PrepareError(f"{data}: is not prepared data of version {VERSION}")
    return manifest


def read_prepared(data: Path) -> Iterator[tuple[str, bytes]]:
    """(uri, image bytes) of every picture of prepared data. Raises PrepareError naming the file that is broken."""
    manifest = check_prepared(data)
    for name, split in sorted(manifest["splits"].items()):
        table = data / split["index"]["name"]
        try:
            with pa.memory_map(str(table)) as source, pa.ipc.open_file(source) as reader:
                for number in range(reader.num_record_batches):
                    rows = reader.get_batch(number).select(["shard", "offset", "length", "uri"]).to_pylist()
                    yield from _pictures(data, name, rows)
        except (OSError, pa.ArrowException) as error:
            raise PrepareError(f"{table}: cannot be read: {error}") from None


def _pictures(data: Path, split: str, rows: list[dict[str, Any]]) -> Iterator[tuple[str, bytes]]:
    handle, opened = -1, ""
    try:
        for row in rows:
            if row["shard"] != opened:
                if handle >= 0:
                    os.close(handle)
                handle, opened = os.open(data / row["shard"], os.O_RDONLY), row["shard"]
            content = os.pread(handle, row["length"], row["offset"])
            if len(content) != row["length"]:
                raise PrepareError(f"{data / opened}: is cut short")
            yield f"{data.name}/{split}: {row['uri']}", content
    finally:
        if handle >= 0:
            os.close(handle)
