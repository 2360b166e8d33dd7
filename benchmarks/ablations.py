"""What each choice of the bundled model's recipe gives: short runs from random weights, one change each.

Every row is a command, `crossmodal train training/recipes/ablation.yaml --set …`, of which the figures are recall@1 on
1,000 scenes that training never saw, and the share of hard negatives passed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.common import parser

_RECIPE = Path("training/recipes/ablation.yaml")
ROWS: dict[str, list[str]] = {
    "as it is": [],
    "sigmoid loss": ["objectives={sigmoid: 1.0}"],
    "and masked language, 0.2": ["objectives={info_nce: 1.0, masked_language: 0.2}"],
    "batch of 48, twice the steps": ["batch_size=48", "steps=×2"],
    "random crops of 80 % and more": ["crop=0.8"],
    "two written negatives": ["negatives_per_image=2"],
    "captions chosen alike": ["caption_choice=uniform"],
    "text tower 48 wide, 2 layers": ["model=ablation-text48.json"],
    "text tower 192 wide, 4 layers": ["model=ablation-text192.json"],
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=300, help="of 96 pairs each")
    options.add_argument("--train", type=Path, default=Path("runs/scenes"), help="of `crossmodal data scenes`")
    options.add_argument("--test", type=Path, default=Path("runs/test"), help="the same, split test")
    options.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    given = options.parse_args()
    for folder in (given.train, given.test):
        if not (folder / "captions.jsonl").is_file():
            sys.exit(f"{folder}: no captions.jsonl; `crossmodal data scenes --out {folder} …` draws them")
    seen = {**report.conditions(), "steps": given.steps}
    rows = []
    for name in given.rows:
        changes = [_worked_out(change, given.steps) for change in ROWS[name]]
        rows.append({"change": name, **_run(given, changes)})
        print(json.dumps(rows[-1], ensure_ascii=False), file=sys.stderr, flush=True)
    seen["load_average_after"] = report.conditions()["load_average"]
    report.save("ablations", seen, rows, given.out)


def _worked_out(change: str, steps: int) -> str:
    return f"steps={2 * steps}" if change.startswith("steps=") else change


def _run(given: Any, changes: list[str]) -> dict[str, Any]:
    """Train, then evaluate what came out."""
    with tempfile.TemporaryDirectory() as out:
        values = [f"steps={given.steps}", f"seed={given.seed}", f"data={given.train.resolve()}", f"out={out}", *changes]
        command = [sys.executable, "-m", "crossmodal", "train", str(_RECIPE)]
        began = time.monotonic()
        subprocess.run(command + [f"--set={value}" for value in values], check=True, stderr=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        judge = [sys.executable, "-m", "crossmodal", "evaluate", "--model", f"{out}/model", "--runtime", "torch",
                 "--data", str(given.test), "--probe", "--json"]  # fmt: skip
        done = subprocess.run(judge, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    by_language = {row["value"]: row for row in found["by"]["language"]}
    figures = {
        f"{language} {arrow}": by_language[language][way]["recall@1"]
        for language in ("en", "zh")
        for way, arrow in (("text_to_image", "text → image"), ("image_to_text", "image → text"))
    }
    return {**figures, "hard negatives passed": found["probes"]["all"]["accuracy"], "seconds": round(seconds)}


if __name__ == "__main__":
    main()
