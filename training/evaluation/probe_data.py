"""Hard-negative probes from a table of `image`, `caption` and `negative`, as ARO and SugarCrepe have them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from dual_encoder import DualEncoder
from training.evaluation.gallery import encode_pictures
from training.evaluation.probes import Probe, probe_figures
from training.pairs import DataError, Pair, json_rows


def read_probes(table: Path, language: str | None = None, limit: int | None = None) -> tuple[list[Pair], list[Probe]]:
    """Pictures and probes of the first `limit` rows.

    `negative` is a string, or a list of strings all of which must score lower; `probe` (its kind) and `language` are
    optional; `image` is relative to the table. Raises DataError naming the row.
    """
    if not table.is_file():
        raise DataError(f"{table}: no such table of probes")
    numbers: dict[Path, int] = {}
    probes = []
    for probe in islice(json_rows(table, lambda row: _probe(row, table.parent, numbers)), limit):
        if language in (None, probe.language):
            probes.append(probe)
    if not probes:
        raise DataError(f"{table}: no probes in it" + (f" in language {language!r}" if language else ""))
    return [Pair(path, (), ()) for path in numbers], probes


def _probe(row: dict[str, Any], root: Path, numbers: dict[Path, int]) -> Probe:
    image, caption, negatives = row["image"], row["caption"], row["negative"]
    negatives = [negatives] if isinstance(negatives, str) else negatives
    if not isinstance(image, str) or not image:
        raise ValueError("image is not a path")
    if not isinstance(caption, str) or not caption.strip():
        raise ValueError("caption is not a string, or empty")
    if not isinstance(negatives, list) or not negatives or not all(isinstance(n, str) and n.strip() for n in negatives):
        raise ValueError("negative is not a string or a list of strings, or empty")
    if caption in negatives:
        raise ValueError("negative is the caption itself")
    number = numbers.setdefault(root / image, len(numbers))
    return Probe(number, str(row.get("probe", "")), str(row.get("language", "")), "", caption, tuple(negatives))


def probe_table(
    encoder: DualEncoder,
    table: Path,
    language: str | None = None,
    limit: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Probe the encoder with a table. Raises DataError."""
    pairs, probes = read_probes(table, language, limit)
    return {"table": str(table), **probe_figures(encoder, encode_pictures(encoder, pairs, on_progress), probes)}
