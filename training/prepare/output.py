"""What stays -> shards, tables, manifest and report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dual_encoder.image import open_image
from training.prepare.checks import small_picture
from training.prepare.directory import FORMAT, MANIFEST, VERSION
from training.prepare.page import render_page
from training.prepare.report import Figures
from training.prepare.shards import SplitWriter
from training.prepare.spool import Spool

KEY = 24  # hexadecimal digits of a picture's SHA-256 that name it
_SAMPLES = 18


@dataclass(frozen=True)
class Chosen:
    """Which items stay, in which split, in which group (a digest); arrays (n,)."""

    alive: NDArray[np.bool_]
    split: NDArray[np.int16]
    names: list[str]
    groups: NDArray[np.void]
    keep_empty: bool  # write splits without pictures too


def write_splits(
    folder: Path,
    spool: Spool,
    chosen: Chosen,
    shard_size: int,
    figures: Figures,
    report: Callable[[int, int | None], None],
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """The manifest's `splits`, and some sample pictures. In the order of the digests, which is as good as random."""
    words = spool.digest_words
    shuffled = np.lexsort((words[:, 1], words[:, 0]))
    shuffled = shuffled[chosen.alive[shuffled]]
    splits: dict[str, dict[str, Any]] = {}
    samples: list[dict[str, Any]] = []
    done = 0
    for number, name in enumerate(chosen.names):
        items = shuffled[chosen.split[shuffled] == number]
        if not len(items) and not chosen.keep_empty:
            continue
        writer = SplitWriter(folder, name, shard_size)
        shown = max(2, _SAMPLES * len(items) // len(shuffled))
        before, copies = "", 0
        for position, item in enumerate(map(int, items)):
            facts = spool.facts(item)
            key = facts["sha256"][:KEY]
            copies, before = (copies + 1 if key == before else 0), key
            public = _public(facts, chosen.groups[item].tobytes().hex()[:KEY])
            writer.add(f"{key}-{copies}" if copies else key, facts["suffix"], spool.data(item), public)
            figures.add(facts)
            if position < shown:
                sample = {"uri": facts["uri"], "captions": facts["captions"], "split": name}
                samples.append({**sample, "thumbnail": thumbnail_of(spool, item)})
            done += 1
            report(done, len(shuffled))
        splits[name] = writer.close()
    return splits, samples


def _public(facts: dict[str, Any], group: str) -> dict[str, Any]:
    """What goes into `<key>.json`; the source's own metadata never hide ours."""
    ours = {
        "captions": facts["captions"], "languages": facts["languages"], "uri": facts["uri"],
        "sha256": facts["sha256"], "group": group, "width": facts["width"], "height": facts["height"],
    }  # fmt: skip
    if facts["again"]:
        ours["duplicate_uris"] = facts["again"]
    if "cosines" in facts:
        ours["cosines"] = facts["cosines"]
    return {**ours, **{name: value for name, value in facts["metadata"].items() if name not in ours}}


def write_report(
    folder: Path,
    found: dict[str, Any],
    splits: dict[str, dict[str, Any]],
    kept: list[dict[str, Any]],
    rejected: dict[str, list[dict[str, Any]]],
) -> None:
    """report.json, report.html, and last the manifest."""
    report = {"format": f"{FORMAT}-report", "version": VERSION, **found}
    shared = {name: found[name] for name in ("source", "options")}
    manifest = {"format": FORMAT, "version": VERSION, **shared, "splits": splits}
    _save(folder / "report.json", _pretty(report))
    _save(folder / "report.html", render_page(report, kept, rejected).encode())
    _save(folder / MANIFEST, _pretty(manifest))


def thumbnail_of(spool: Spool, item: int) -> bytes:
    """A small JPEG of an item's picture."""
    return small_picture(open_image(spool.data(item), 112).image)


def _pretty(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False).encode() + b"\n"


def _save(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
