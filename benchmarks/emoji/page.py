"""benchmarks/results/emoji.json -> docs/benchmarks/emoji.svg and the tables of docs/training.md, printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.emoji.concepts import LANGUAGES
from benchmarks.plots import line_chart
from benchmarks.report import RESULTS

_PLOT = Path("docs/benchmarks/emoji.svg")


def main() -> None:
    rows = json.loads((RESULTS / "emoji.json").read_text("utf-8"))["rows"]
    _PLOT.write_text(chart(rows), "utf-8")
    print("\n".join(table(rows)))


def chart(rows: list[dict[str, Any]]) -> str:
    """Recall@10 of what was learned, over the pictures of training."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if "steps" in row:
            point = row["training_pictures"], row["learned: text → image @10"]
            lines.setdefault(f"{row['model']}, {row['language']}", []).append(point)
    return line_chart("Emoji by name", list(lines.items()), "training pictures", "recall@10, text → image")


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines of Markdown: a row a run and language, recall@1, 5, 10 of what was learned, and @10 of what is new."""
    lines = ["| pictures | model | | learned: text → image @1, 5, 10 | image → text @1, 5, 10 | new: @10, both ways |",
             "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip

    def figures(row: dict[str, Any], *columns: str) -> str:
        return ", ".join(f"{row[column]:.3f}" for column in columns if column in row)

    for row in sorted(rows, key=lambda row: (row["share"], LANGUAGES.index(row["language"]))):
        ways = ([f"learned: {way} @{k}" for k in (1, 5, 10)] for way in ("text → image", "image → text"))
        new = figures(row, *(f"new: {way} @10" for way in ("text → image", "image → text")))
        cells = [f"{row.get('training_pictures', 0):,}", row["model"], row["language"]]
        lines.append(f"| {' | '.join([*cells, *(figures(row, *way) for way in ways), new])} |")
    return lines


if __name__ == "__main__":
    main()
