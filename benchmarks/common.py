"""Options and set-up that the benchmarks share."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.fixtures import make_index
from benchmarks.process import Service

PYTHON = sys.executable


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=cache() / "benchmarks", help="where model and index are kept")
    options.add_argument("--seconds", type=float, default=10, help="of each measurement")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, help="JSON file; benchmarks/results/NAME.json when not given")
    return options


def cache() -> Path:
    """What is made once and outlives a run."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "crossmodal"


def model_and_index(folder: Path, count: int = 100_000, seed: int = 0, index_type: str = "auto") -> tuple[Path, Path]:
    """ViT-B-32 with random weights, exported, and an index of `count` vectors; made when they are not there."""
    model = folder / "vit-b-32"
    if not (model / "model.json").is_file():
        from dual_encoder.export import export_model

        export_model("ViT-B-32", model)
    name = f"index-{count}" + ("" if index_type == "auto" else f"-{index_type.replace(',', '-')}")
    return model, make_index(folder / name, model, count, seed=seed, index_type=index_type)


def ours(index: Path, *words: str, **environment: str) -> Service:
    """`crossmodal serve` with caches off; what waits is not refused, or the figures would be of refusals."""
    command: list[str | Path] = [PYTHON, "-m", "crossmodal", "serve", index, "--port", "{port}", *words]
    return Service(command, "/readyz", {"CROSSMODAL_CACHE_BYTES": "0", "CROSSMODAL_QUEUE_SECONDS": "60", **environment})
