"""Raw image–caption pairs -> clean, sharded WebDataset with a manifest.

summary = prepare_pairs("pictures.jsonl", "data", Options(min_side=128))
"""

from __future__ import annotations

from training.prepare.errors import PrepareError
from training.prepare.options import Options
from training.prepare.prepare import Summary, prepare_pairs

__all__ = ["Options", "PrepareError", "Summary", "prepare_pairs"]
