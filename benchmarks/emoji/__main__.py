"""Does fine-tuning pay? `tiny` as it is, fine-tuned whole or its picture tower alone, and from scratch, on emoji.

Training: the emoji of Google and Twitter with names and keywords in English and Chinese; one emoji in ten is held out.
Test: every emoji as OpenMoji draws it, and each is asked for by its name alone among all of them. `learned` are the
emoji that a run was trained on, as others draw them; `new` those that it was not. All runs are equally long, unless
--passes says how often each picture is seen.

Each side has its own best learning rate, of the same number of candidates: a sweep trains on Google's drawings of the
middle share for half the steps and is judged by Twitter's, so that no drawing of the test has a say. --no-sweep takes
the recipe's settings, with --set, for all.
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
from benchmarks.emoji.concepts import HELD_OUT, LANGUAGES, UNUSED, read_emoji
from benchmarks.emoji.packages import GOOGLE, NAMES, OPENMOJI, PACKAGES, TWITTER, PackageError, fetch
from benchmarks.emoji.tables import TABLE, drawn_by_all, training_table, write_table

_STEPS = 120
_RECIPE = Path(__file__).parent / "recipe.yaml"
_SCRATCH = Path(__file__).parents[2] / "training" / "recipes" / "tiny.json"
_DRAWINGS = {
    "google": (GOOGLE, "img/google/64"),
    "twitter": (TWITTER, "img/twitter/64"),
    "openmoji": (OPENMOJI, "color/svg"),
}
_TRAINING, _TEST = ("google", "twitter"), "openmoji"
_AS_IS = "as it is"
_SIDES = {"fine-tuned": "", "picture tower fine-tuned": "fresh_text=true", "from scratch": ""}
_CANDIDATES = ("learning_rate=0.002", "learning_rate=0.004")
_WAYS = {"text_to_image": "text → image", "image_to_text": "image → text"}


@dataclass(frozen=True)
class Run:
    """`start` is what is trained, `share` that of the emoji that are not held out; `passes`, if any, before `steps`."""

    name: str
    start: str
    share: float
    steps: int
    passes: float | None = None
    vendors: tuple[str, ...] = _TRAINING


def main() -> None:
    from dual_encoder import load_encoder

    options = parser(__doc__)
    options.prog = "python -m benchmarks.emoji"
    options.add_argument("--model", default="tiny", help="the model to fine-tune: a reference that can be trained")
    options.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.3, 1], help="of the emoji")
    options.add_argument("--steps", type=int, default=_STEPS, help="of each run, of 64 pairs each")
    options.add_argument("--passes", type=float, help="how often a run sees each of its pictures, instead of steps")
    options.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="other changes to the recipe")
    options.add_argument("--no-sweep", action="store_true", help="the recipe's settings for all")
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
    seen |= {"passes": given.passes} if given.passes else {"steps": given.steps}
    starts = dict.fromkeys(_SIDES, model) | {"from scratch": str(_SCRATCH)}
    best = dict.fromkeys(_SIDES, "")
    shares = sorted(given.shares)
    if not given.no_sweep:
        middle, steps = shares[len(shares) // 2], max(1, given.steps // 2)
        runs = {name: Run(name, starts[name], middle, steps, vendors=_TRAINING[:1]) for name in _SIDES}
        seen["sweep"] = {name: sweep(run, folders, changes) for name, run in runs.items()}
        best = {name: max(found, key=found.__getitem__) for name, found in seen["sweep"].items()}
    rows = [*measure(_AS_IS, model, folders[_TEST], 0)]
    for share in shares:
        for name in _SIDES:
            run = Run(name, starts[name], share, given.steps, given.passes)
            rows += carry_out(run, folders, [*changes, *best[name].split()])
    seen["load_average_after"] = report.conditions()["load_average"]
    order = {name: number for number, name in enumerate((_AS_IS, *_SIDES))}
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


def sweep(run: Run, folders: dict[str, Path], changes: list[str]) -> dict[str, float]:
    """A candidate's text → image recall@10, mean of both languages, of what it learned as another vendor draws it."""
    judged = _TRAINING[1]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / TABLE
        training_table([folders[judged]], run.share, table)
        found = {}
        for candidate in _CANDIDATES:
            with trained(run, folders, [*changes, candidate]) as (model, _):
                figures = [evaluated(model, table, language, by=[]) for language in LANGUAGES]
            found[candidate] = round(sum(each["text_to_image"]["recall@10"] for each in figures) / len(figures), 4)
            print(f"  sweep, {run.name}, {candidate}: {found[candidate]}", flush=True)
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
        own = [*_SIDES[run.name].split(), *(f"{key}={json.dumps(value)}" for key, value in places.items())]
        config = read_config(_RECIPE, [*changes, *own, f"steps={run.steps}"])
        if run.passes:
            config = config.model_copy(update={"steps": math.ceil(run.passes * count / config.batch_size)})
        began = time.monotonic()
        model = train(config, show)
        seconds = round(time.monotonic() - began)
        yield str(model), {"training_pictures": count, "steps": config.steps, "training_seconds": seconds}


def measure(name: str, model: str, test: Path, share: float) -> Iterator[dict[str, Any]]:
    """A row a language: recalls both ways of the names of emoji that were learned and of those that were not."""
    for language in LANGUAGES:
        found = evaluated(model, test, language, by=["part"])
        row: dict[str, Any] = {"model": name, "share": share, "language": language, "pictures": found["images"]}
        for group, parts in _grouped(found["by"]["part"], share).items():
            row[f"{group}: names"] = sum(part["texts"] for part in parts)
            for way, shown in _WAYS.items():
                for k in (1, 5, 10):
                    row[f"{group}: {shown} @{k}"] = _mean([(part[way][f"recall@{k}"], part["texts"]) for part in parts])
        shown = [f"{column} {value}" for column, value in row.items() if column.endswith("text → image @10")]
        print(f"  {name}, {language}: {', '.join(shown)}", flush=True)
        yield row


def _grouped(parts: list[dict[str, Any]], share: float) -> dict[str, list[dict[str, Any]]]:
    """The parts of the emoji that a run on `share` learned from, and the others."""
    groups: dict[str, list[dict[str, Any]]] = {"learned": [], "new": []}
    for part in parts:
        learned = part["value"] not in (HELD_OUT, UNUSED) and float(part["value"]) <= share
        groups["learned" if learned else "new"].append(part)
    return {name: found for name, found in groups.items() if found}


def _mean(values: list[tuple[float, int]]) -> float:
    return round(sum(value * count for value, count in values) / sum(count for _, count in values), 4)


def evaluated(model: str, data: Path, language: str, by: list[str]) -> dict[str, Any]:
    from dual_encoder import load_encoder
    from training.evaluation import evaluate

    return evaluate(load_encoder(model, runtime="torch", precision="fp32"), data, language, by=by)


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
