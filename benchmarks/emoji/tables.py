"""Pictures and names -> tables of pairs as training and evaluation read them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.emoji.concepts import HELD_OUT, LANGUAGES, UNUSED, Emoji, part
from benchmarks.emoji.packages import PackageError

TABLE = "captions.jsonl"


def drawn_by_all(emoji: Sequence[Emoji], folders: Sequence[Path]) -> list[Emoji]:
    """The emoji of which every vendor's folder has a picture. Raises PackageError if there is none."""
    common = [each for each in emoji if all((folder / f"{each.key}.png").is_file() for folder in folders)]
    if not common:
        raise PackageError(f"{', '.join(folder.name for folder in folders)} have no picture of one emoji in common")
    return common


def write_table(emoji: Sequence[Emoji], folder: Path, shares: list[float], *, keywords: bool) -> None:
    """Write `captions.jsonl` of a vendor's folder of pictures.

    Captions are the names, or also names with `keywords`. Pictures of one emoji are one `group`.
    """
    rows = []
    for each in emoji:
        said = [(c, language) for language in LANGUAGES for c in each.captions(language)[: 2 if keywords else 1]]
        rows.append({
            "image": f"{each.key}.png", "caption": [caption for caption, _ in said],
            "language": [language for _, language in said], "group": each.key, "emoji": each.text,
            "kind": each.kind, "part": part(each, shares),
        })  # fmt: skip
    _write(rows, folder / TABLE)


def training_table(folders: Sequence[Path], share: float, out: Path) -> int:
    """Join the rows of several vendors that a run on `share` of the emoji learns from, and return their number.

    None that are held out are among them.
    """
    rows = []
    for folder in folders:
        for line in (folder / TABLE).read_text("utf-8").splitlines():
            row = json.loads(line)
            if row["part"] not in (HELD_OUT, UNUSED) and float(row["part"]) <= share:
                rows.append({**row, "image": os.path.relpath(folder / row["image"], out.parent)})
    _write(rows, out)
    return len(rows)


def _write(rows: Sequence[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
