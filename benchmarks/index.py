"""Indexing: pictures a second of the whole pipeline, of its bare halves, and of clip-retrieval's own inference.

The pipeline reads files, decodes them, makes thumbnails, encodes and publishes. The bare halves have the same threads:
decoding alone on as many as there are cores, encoding alone in the pipeline's batches on all cores. The pipeline has
both on the same cores: at best it is as fast as they are `sharing the cores`. The `slower of` the two, each alone on
all cores, it cannot reach where both are bound by the processor.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.common import model_and_index, parser
from benchmarks.fixtures import jpegs, marked
from benchmarks.peers.environment import PEERS, clip_retrieval
from dual_encoder import DualEncoder, load_encoder
from dual_encoder.image import open_image
from indexer import build_index
from indexer.thumbnail import SIDE
from service.threads import share

_BATCH = 32  # build_index's own


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--small", type=int, default=512, help="JPEGs of 0.3 MP")
    options.add_argument("--large", type=int, default=128, help="JPEGs of 12 MP")
    options.add_argument("--rounds", type=int, default=2, help="turns that each takes; the fastest counts")
    options.add_argument("--ours", action="store_true", help="leave clip-retrieval out")
    given = options.parse_args()
    model, _ = model_and_index(given.folder, seed=given.seed)
    encoder = load_encoder(str(model))
    seen = report.conditions()
    rows: list[dict[str, Any]] = []
    for what, megapixels, count in (("JPEG 12 MP", 12, given.large), ("JPEG 0.3 MP", 0.3, given.small)):
        with tempfile.TemporaryDirectory(prefix="pictures-") as folder:
            files = _write(Path(folder, "files"), count, megapixels, given.seed)
            rows += _compare(what, files, encoder, model, given)
    seen["load_average_after"] = report.conditions()["load_average"]
    report.save("index", seen, rows, given.out)


def _compare(
    what: str, files: list[Path], encoder: DualEncoder, model: Path, given: argparse.Namespace
) -> list[dict[str, Any]]:
    best: dict[str, float] = {}
    failed = ""

    def note(who: str, rate: float) -> None:
        best[who] = max(best.get(who, 0.0), rate)

    for _ in range(given.rounds):
        note("bare decode", decode_rate(files, encoder))
        note("bare encode", encode_rate(encoder, given.seconds / 2))
        note("pipeline", pipeline_rate(files, encoder))
        if not given.ours and not failed:
            try:
                note("clip-retrieval inference", clip_retrieval_rate(files, model))
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                failed = str(error)[-300:]
    rows: list[dict[str, Any]] = [
        {
            "pictures": what,
            "files": len(files),
            "what": who,
            "per_second": rate,
            "pipeline_over": best["pipeline"] / rate,
        }
        for who, rate in best.items()
    ]
    decode, encode = best["bare decode"], best["bare encode"]  # each with all cores
    for name, rate in (
        ("slower of bare decode and encode", min(decode, encode)),
        ("bare decode and encode, sharing the cores", 1 / (1 / decode + 1 / encode)),
    ):
        rows.append({"pictures": what, "files": len(files), "what": name,
                     "per_second": rate, "pipeline_over": best["pipeline"] / rate})  # fmt: skip
    if failed:
        rows.append({"pictures": what, "files": len(files), "what": "clip-retrieval inference", "error": failed})
    return rows


def decode_rate(files: list[Path], encoder: DualEncoder) -> float:
    """Files read, decoded and preprocessed a second, on as many threads as cores."""

    def decode(path: Path) -> None:
        encoder.preprocess(open_image(path.read_bytes(), max(*encoder.image_size, SIDE // 2)).image)

    threads = share().decoders
    decode(files[0])
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        for _ in pool.map(decode, files):
            pass
        return len(files) / (time.perf_counter() - began)


def encode_rate(encoder: DualEncoder, seconds: float) -> float:
    """Preprocessed pictures encoded a second, in the pipeline's batches."""
    height, width = encoder.image_size
    pixels = np.random.default_rng(0).standard_normal((_BATCH, 3, height, width), dtype=np.float32)
    encoder.encode_pixels(pixels)
    began, done = time.perf_counter(), 0
    while not done or time.perf_counter() - began < seconds:
        encoder.encode_pixels(pixels)
        done += _BATCH
    return done / (time.perf_counter() - began)


def pipeline_rate(files: list[Path], encoder: DualEncoder) -> float:
    """Pictures indexed a second by build_index, publishing included."""
    with tempfile.TemporaryDirectory(prefix="index-") as out:
        began = time.perf_counter()
        build_index(files[0].parent, out, encoder, batch_size=_BATCH)
        return len(files) / (time.perf_counter() - began)


def clip_retrieval_rate(files: list[Path], model: Path) -> float:
    """Pictures a second of clip-retrieval's inference once its model is loaded. Raises RuntimeError where it fails."""
    with tempfile.TemporaryDirectory(prefix="inference-") as out:
        command: list[str | Path] = [
            clip_retrieval(),
            PEERS / "clip_retrieval_inference.py",
            model,
            files[0].parent,
            out,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        found = [line for line in done.stdout.splitlines() if line.startswith("SECONDS")]
        if done.returncode or not found:
            raise RuntimeError((done.stderr or done.stdout).strip()[-300:])
        return len(files) / float(found[0].split()[1])


def _write(folder: Path, count: int, megapixels: float, seed: int) -> list[Path]:
    """JPEGs in a folder; a dozen are drawn, the others differ in their bytes alone, so that each is indexed."""
    folder.mkdir()
    paths = []
    for number, file in enumerate(marked(jpegs(min(count, 12), megapixels, seed), count)):
        paths.append(folder / f"{number:06d}.jpg")
        paths[-1].write_bytes(file)
    return paths


if __name__ == "__main__":
    main()
