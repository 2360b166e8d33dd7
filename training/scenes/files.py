"""Scenes as a folder of pictures and a table of captions."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from training.scenes.captions import describe, mentions, mislead
from training.scenes.drawing import draw
from training.scenes.scene import LANGUAGES, SPLITS, Scene, scenes

_FILES_PER_FOLDER = 1000


def _write(job: tuple[Path, list[tuple[str, Scene, int]]]) -> None:
    folder, items = job
    folder.mkdir(parents=True, exist_ok=True)
    for name, scene, placement in items:
        draw(scene, placement).save(folder / name, quality=92, subsampling=0)


def write_scenes(
    out: Path,
    count: int,
    seed: int,
    split: str = "train",
    languages: Sequence[str] = LANGUAGES,
    workers: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> Path:
    """Write `count` scenes as JPEG under `out/images` and `out/captions.jsonl`, a table the indexer and training read.

    Each row has `image`, `caption` (a list) and `language` (one for each caption), and what the scene shows as
    metadata. Training rows also have all their `mentions`, so that training can tell which captions
    are true of several pictures. Returns the table's path; it is written last.
    """
    for name, value, allowed in [("split", [split], SPLITS), ("language", languages, LANGUAGES)]:
        if wrong := [v for v in value if v not in allowed]:
            raise ValueError(f"unknown {name} {wrong[0]!r}; choose from {', '.join(allowed)}")
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    out.mkdir(parents=True, exist_ok=True)
    table, unfinished = out / "captions.jsonl", out / "captions.jsonl.tmp"
    table.unlink(missing_ok=True)  # it would tell of other pictures
    stream = scenes(count, seed, split)
    done = 0
    with unfinished.open("w", encoding="utf-8") as rows, _pool(workers) as pool:

        def jobs() -> Iterator[tuple[Path, list[tuple[str, Scene, int]]]]:
            folder = 0
            while chunk := list(islice(stream, _FILES_PER_FOLDER)):
                items = []
                for i, (scene, placement) in enumerate(chunk):
                    name = f"{folder * _FILES_PER_FOLDER + i:07d}.jpg"
                    items.append((name, scene, placement))
                    rows.write(
                        json.dumps(_row(f"images/{folder:04d}/{name}", scene, split, languages), ensure_ascii=False)
                    )
                    rows.write("\n")
                yield out / "images" / f"{folder:04d}", items
                folder += 1

        for size, _ in zip(_chunk_sizes(count), pool.map(_write, jobs()), strict=True):
            done += size
            if on_progress:
                on_progress(done)
    unfinished.replace(table)
    return table


def _pool(workers: int) -> Executor:
    # Not forked: a process with threads, as any that has loaded a model, may fork a child that never runs.
    if workers > 1:
        # Else each prints a traceback where Ctrl-C ends it.
        quietly = signal.signal, (signal.SIGINT, signal.SIG_DFL)
        return ProcessPoolExecutor(workers, get_context("spawn"), *quietly)
    return ThreadPoolExecutor(1)


def _chunk_sizes(count: int) -> Iterator[int]:
    for start in range(0, count, _FILES_PER_FOLDER):
        yield min(_FILES_PER_FOLDER, count - start)


def _row(image: str, scene: Scene, split: str, languages: Sequence[str]) -> dict[str, object]:
    captions = [(text, lang) for lang in languages for text in describe(scene, lang)]
    if split == "train":
        captions += [(text, lang) for lang in languages for text in mentions(scene, lang)]
    first = scene.things[0]
    negatives = {}
    if split == "train":
        rng = random.Random(f"{image}/{scene.key}")
        negatives = {"negatives": [text for lang in languages for text in mislead(scene, lang, rng)]}
    return {
        "image": image,
        "caption": [text for text, _ in captions],
        "language": [lang for _, lang in captions],
        **negatives,
        "shape": first.shape,
        "colour": first.colour,
        "count": scene.count * len(scene.things),
        "place": scene.place,
        "background": scene.background,
    }
