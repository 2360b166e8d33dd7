"""What is left out: one line each, counted by step, with a few sample pictures for the report."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from training.prepare.checks import Refusal, to_line

# In the order in which they are taken; every step that can leave something out.
STEPS = (
    "unreadable", "too many pixels", "too small", "aspect ratio", "split",
    "caption not text", "caption empty", "caption short", "caption long", "boilerplate", "language", "caption twice",
    "no caption", "exact duplicate", "repeated caption", "near duplicate", "low cosine", "leakage",
)  # fmt: skip
_SAMPLES = 6  # a step

Thumbnail = Callable[[], bytes] | None  # made only if the report will show it


class Rejects:
    """Writes rejects.jsonl. A line has uri, what (picture or caption), step, reason, and the captions left out."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self.pictures: Counter[str] = Counter()
        self.captions: Counter[str] = Counter()
        self.first = ""
        self._samples: dict[str, list[tuple[int, int, dict[str, Any]]]] = {}
        self._lines = 0

    def close(self) -> None:
        self._file.close()

    def picture(
        self, uri: str, refusal: Refusal, captions: Sequence[str], thumbnail: Thumbnail = None, beside: Thumbnail = None
    ) -> None:
        """A picture with all its captions; `beside` shows what it was compared with."""
        self.pictures[refusal.step] += 1
        self.captions[refusal.step] += len(captions)
        self._write(uri, "picture", refusal, list(captions), thumbnail, beside)

    def caption(self, uri: str, refusal: Refusal, thumbnail: Thumbnail = None) -> None:
        self.captions[refusal.step] += 1
        self._write(uri, "caption", refusal, [refusal.caption or ""], thumbnail, None)

    def merged(self, uri: str, refusal: Refusal) -> None:
        """A picture that is there already; its captions are not lost."""
        self.pictures[refusal.step] += 1
        self._write(uri, "picture", refusal, [], None, None)

    def _write(
        self, uri: str, what: str, refusal: Refusal, captions: list[str], thumbnail: Thumbnail, beside: Thumbnail
    ) -> None:
        self.first = self.first or f"{uri}: {refusal.reason}"
        line = {"uri": uri, "what": what, "step": refusal.step, "reason": refusal.reason, "captions": captions}
        written = to_line(line)
        self._file.write(written)
        self._lines += 1
        # The smallest hashes are a random choice that comes out the same every time.
        rank = -int.from_bytes(hashlib.sha256(written).digest()[:8], "big")
        heap = self._samples.setdefault(refusal.step, [])
        if len(heap) == _SAMPLES and rank < heap[0][0]:
            return
        pictures = {"thumbnail": thumbnail() if thumbnail else b"", "beside": beside() if beside else b""}
        heapq.heappush(heap, (rank, self._lines, {**line, **pictures}))
        if len(heap) > _SAMPLES:
            heapq.heappop(heap)

    def samples(self) -> dict[str, list[dict[str, Any]]]:
        """step -> lines, each with `thumbnail` and `beside`: JPEG bytes, perhaps none."""
        return {step: [entry[2] for entry in sorted(self._samples[step], reverse=True)]
                for step in STEPS if step in self._samples}  # fmt: skip
