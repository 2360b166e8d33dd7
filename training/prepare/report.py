"""report.json: what each step left out, and how what stays is distributed."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from training.prepare.captions import caption_length
from training.prepare.rejects import STEPS, Rejects

_SIDES = (0, 64, 128, 224, 256, 336, 512, 768, 1024, 1536, 2048, 4096)
_ASPECTS = (0, 0.2, 0.33, 0.5, 0.67, 0.75, 0.9, 1.1, 1.33, 1.5, 2, 3, 5)  # width over height
_LENGTHS = (0, 5, 10, 20, 30, 40, 60, 80, 120, 160, 240, 320, 640)
_COSINES = (-1, -0.2, *(round(-0.1 + 0.05 * i, 2) for i in range(23)))


@dataclass
class Histogram:
    """`counts[i]` values lie from `edges[i]` up to the next edge; the last is open."""

    edges: tuple[float, ...]
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * len(self.edges)

    def add(self, value: float) -> None:
        self.counts[max(0, bisect_right(self.edges, value) - 1)] += 1


class Figures:
    """Counts of what stays, gathered while it is written; cosines of every pair that was compared."""

    def __init__(self) -> None:
        self.width, self.height = Histogram(_SIDES), Histogram(_SIDES)
        self.aspect, self.length, self.cosine = Histogram(_ASPECTS), Histogram(_LENGTHS), Histogram(_COSINES)
        self.per_picture: Counter[int] = Counter()
        self.languages: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()

    def add(self, facts: dict[str, Any]) -> None:
        self.width.add(facts["width"])
        self.height.add(facts["height"])
        self.aspect.add(facts["width"] / facts["height"])
        self.languages.update(facts["languages"])
        self.formats[facts["suffix"]] += 1
        self.per_picture[len(facts["captions"])] += 1
        for caption in facts["captions"]:
            self.length.add(caption_length(caption))

    def to_json(self) -> dict[str, Any]:
        shown = {
            "width": self.width, "height": self.height, "aspect": self.aspect, "caption_length": self.length,
            "cosine": self.cosine,
        }  # fmt: skip
        return {
            **{name: {"edges": list(h.edges), "counts": h.counts} for name, h in shown.items() if any(h.counts)},
            "captions_a_picture": {str(n): self.per_picture[n] for n in sorted(self.per_picture)},
            "languages": dict(sorted(self.languages.items(), key=lambda entry: (-entry[1], entry[0]))),
            "formats": dict(sorted(self.formats.items(), key=lambda entry: (-entry[1], entry[0]))),
        }


def step_rows(records: int, captions: int, rejects: Rejects) -> list[dict[str, Any]]:
    """One row a step: what it left out, and what was left after it."""
    rows = []
    for step in STEPS:
        records -= rejects.pictures[step]
        captions -= rejects.captions[step]
        rows.append(
            {
                "step": step, "pictures": rejects.pictures[step], "captions": rejects.captions[step],
                "pictures_left": records, "captions_left": captions,
            }
        )  # fmt: skip
    return rows
