"""Does fine-tuning pay? `tiny` as it is, `tiny` fine-tuned, and its architecture from scratch, on emoji.

Training: the emoji of Google and Twitter with names and keywords in English and Chinese; one emoji in ten is held out.
Test: every emoji as OpenMoji draws it; the query is its name alone. Most test concepts were seen in training, drawn by
others; `held out` are those that never were, still searched among all; their relatives (another face, another flag)
were. Every run sees each of its pictures equally often: one on fewer emoji is shorter. With --steps all are alike long.

Each side has its own best settings: a sweep trains on Google's drawings alone and is judged by Twitter's, so that no
drawing of the test has a say in them. --no-sweep takes the recipe's settings, with --set, for both.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.common import cache, parser
from benchmarks.emoji.artwork import make_pictures
from benchmarks.emoji.concepts import HELD_OUT, LANGUAGES, read_emoji
from benchmarks.emoji.packages import GOOGLE, NAMES, OPENMOJI, PACKAGES, TWITTER, PackageError, fetch
from benchmarks.emoji.tables import TABLE, drawn_by_all, training_table, write_table

_PASSES, _SWEEP_PASSES = 10, 4
_RECIPE = Path(__file__).parent / "recipe.yaml"
_SCRATCH = Path(__file__).parents[2] / "training" / "recipes" / "tiny.json"
_DRAWINGS = {
    "google": (GOOGLE, "img/google/64"),
    "twitter": (TWITTER, "img/twitter/64"),
    "openmoji": (OPENMOJI, "color/svg"),
}
_TRAINING, _TEST = ("google", "twitter"), "openmoji"
_SIDES = ("fine-tuned", "from scratch")
_CANDIDATES = {
    "fine-tuned": ("learning_rate=0.0005", "learning_rate=0.001", "learning_rate=0.002",
                   "learning_rate=0.002 layer_decay=0.7"),
    "from scratch": ("learning_rate=0.001", "learning_rate=0.002", "learning_rate=0.004"),
}  # fmt: skip
_WAYS = {"text_to_image": "text → image", "image_to_text": "image → text"}


@dataclass(frozen=True)
class Run:
    """`start` is what is trained, `share` that of the emoji that are not held out; `steps`, if any, before `passes`."""

    name: str
    start: str
    share: float
    passes: float
    steps: int | None = None
    vendors: tuple[str, ...] = _TRAINING


def main() -> None:
    from dual_encoder import load_encoder

    options = parser(__doc__)
    options.prog = "python -m benchmarks.emoji"
    options.add_argument("--model", default="tiny", help="the model to fine-tune: a reference that can be trained")
    options.add_argument("--shares", type=float, nargs="+", default=[0.25, 1], help="of the emoji")
    options.add_argument("--passes", type=float, default=_PASSES, help="how often a run sees each of its pictures")
    options.add_argument("--steps", type=int, help="of each run, instead of passes")
    options.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="other changes to the recipe")
    options.add_argument("--no-sweep", action="store_true", help="the recipe's settings for both")
    options.add_argument("--quick", action="store_true", help="the largest share alone, one pass, no sweep")
    options.set_defaults(folder=cache() / "emoji")
    given = options.parse_args()
    if given.quick:
        given.shares, given.passes, given.no_sweep = [max(given.shares)], 1, True
    for package in PACKAGES:
        print(f"{package.name} {package.version}: {package.what}; {package.licence}")
    try:
        folders = make_data(given.folder, given.shares)
    except PackageError as error:
        sys.exit(str(error))
    model = str(Path(given.model).resolve()) if Path(given.model).is_dir() else given.model
    changes = [f"seed={given.seed}", *given.set]
    seen = {**report.conditions(), "torch_threads": _threads(), **_described(given.model, changes)}
    seen["fingerprint"] = load_encoder(model, runtime="torch").fingerprint
    seen |= {"steps": given.steps} if given.steps else {"passes": given.passes}
    starts = dict(zip(_SIDES, (model, str(_SCRATCH)), strict=True))
    best = dict.fromkeys(_SIDES, "")
    if not given.no_sweep:
        seen["sweep"] = {name: sweep(name, starts[name], max(given.shares), folders, changes) for name in _SIDES}
        best = {name: max(found, key=found.__getitem__) for name, found in seen["sweep"].items()}
    rows = [*measure("as it is", model, folders[_TEST], 0)]
    for share in sorted(given.shares):
        for name in _SIDES:
            run = Run(name, starts[name], share, given.passes, given.steps)
            rows += carry_out(run, folders, [*changes, *best[name].split()])
    seen["load_average_after"] = report.conditions()["load_average"]
    order = {name: number for number, name in enumerate(("as it is", *_SIDES))}
    report.save("emoji", seen, sorted(rows, key=lambda row: (row["language"], order[row["model"]])), given.out)


def make_data(folder: Path, shares: list[float]) -> dict[str, Path]:
    """Fetch what is not there and return each vendor's folder of pictures with its table. Raises PackageError."""
    packages = folder / "packages"
    emoji = read_emoji(fetch(NAMES, packages))
    folders = {vendor: folder / vendor for vendor in _DRAWINGS}
    for vendor, (package, place) in _DRAWINGS.items():
        make_pictures(fetch(package, packages) / place, {each.key for each in emoji}, folders[vendor])
    emoji = drawn_by_all(emoji, list(folders.values()))
    print(f"{len(emoji):,} emoji that all vendors draw")
    for vendor in _DRAWINGS:
        write_table(emoji, folders[vendor], shares, keywords=vendor in _TRAINING)
    return folders


def sweep(name: str, start: str, share: float, folders: dict[str, Path], changes: list[str]) -> dict[str, float]:
    """Each candidate's text → image recall@10, mean of both languages: trained on one vendor, judged by the other."""
    learned, judged = _TRAINING
    run = Run(name, start, share, _SWEEP_PASSES, vendors=(learned,))
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / TABLE
        training_table([folders[judged]], share, table)
        found = {}
        for candidate in _CANDIDATES[name]:
            with trained(run, folders, [*changes, *candidate.split()]) as (model, _):
                figures = [evaluated(model, table, language, by=[]) for language in LANGUAGES]
            found[candidate] = round(sum(each["text_to_image"]["recall@10"] for each in figures) / len(figures), 4)
            print(f"  sweep, {name}, {candidate}: {found[candidate]}", flush=True)
    return found


def carry_out(run: Run, folders: dict[str, Path], changes: list[str]) -> Iterator[dict[str, Any]]:
    """Train and measure."""
    with trained(run, folders, changes) as (model, facts):
        for row in measure(run.name, model, folders[_TEST], run.share):
            yield {**row, **facts}


@contextmanager
def trained(run: Run, folders: dict[str, Path], changes: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Train; gives the model, which is gone afterwards, and how it was trained."""
    from training.config import read_config
    from training.train import Progress, train

    def show(progress: Progress) -> None:
        print(f"  step {progress.step} of {progress.steps}: loss {progress.loss:.3f}, "
              f"{progress.pairs_per_second:.0f} pairs/s", flush=True)  # fmt: skip

    with tempfile.TemporaryDirectory() as name:
        table = Path(name) / TABLE
        count = training_table([folders[vendor] for vendor in run.vendors], run.share, table)
        print(f"{run.name}, {run.share:g} of the emoji: {count:,} pictures", flush=True)
        places = {"model": run.start, "data": str(table), "out": str(Path(name) / "run")}
        changes = [*changes, *(f"{key}={json.dumps(value)}" for key, value in places.items())]
        batch = read_config(_RECIPE, changes).batch_size
        config = read_config(_RECIPE, [*changes, f"steps={run.steps or math.ceil(run.passes * count / batch)}"])
        began = time.monotonic()
        model = train(config, show)
        seconds = round(time.monotonic() - began)
        yield str(model), {"training_pictures": count, "steps": config.steps, "training_seconds": seconds}


def measure(name: str, model: str, test: Path, share: float) -> Iterator[dict[str, Any]]:
    """A row a language: recalls of both ways, of all queries, of those about held-out emoji, and of each kind."""
    for language in LANGUAGES:
        found = evaluated(model, test, language, by=["part", "kind"])
        unseen = next(each for each in found["by"]["part"] if each["value"] == HELD_OUT)
        row: dict[str, Any] = {"model": name, "share": share, "language": language}
        row |= {"queries": found["texts"], **_recalls(found), "held out: queries": unseen["texts"]}
        row |= {f"held out: {figure}": value for figure, value in _recalls(unseen).items()}
        for each in found["by"]["kind"]:
            row[f"{each['value']}: {_WAYS['text_to_image']} @10"] = each["text_to_image"]["recall@10"]
        shown = [f"{figure} {row[figure]}" for figure in ("text → image @10", "held out: text → image @10")]
        print(f"  {name}, {language}: {', '.join(shown)}", flush=True)
        yield row


def evaluated(model: str, data: Path, language: str, by: list[str]) -> dict[str, Any]:
    from dual_encoder import load_encoder
    from training.evaluation import evaluate

    return evaluate(load_encoder(model, runtime="torch", precision="fp32"), data, language, by=by)


def _recalls(found: dict[str, Any]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for way, shown in _WAYS.items():
        figures |= {f"{shown} @{k}": found[way][f"recall@{k}"] for k in (1, 5, 10)}
        low, high = found["intervals"][way]["recall@10"]
        figures[f"{shown} @10 95 %"] = f"{low:.3f}–{high:.3f}"
    return figures


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _described(model: str, changes: list[str]) -> dict[str, str]:
    """What is fine-tuned, and the recipe's lines with the changes, on one."""
    lines = [line for line in _RECIPE.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    values = dict(line.split(": ", 1) for line in lines) | dict(change.split("=", 1) for change in changes)
    hidden = ("model", "data", "out", "steps")
    return {"model": model, "recipe": ", ".join(f"{key} {value}" for key, value in values.items() if key not in hidden)}


if __name__ == "__main__":
    main()
