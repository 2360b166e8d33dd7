"""Which split a picture belongs to: decided by a hash of its content, so that it never changes with the rest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from training.prepare.errors import PrepareError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")

Splits = tuple[tuple[str, float], ...]


def parse_splits(spec: str) -> Splits:
    """`train=0.95,test=0.05` -> names with shares that add up to 1; `train` alone is all. Raises PrepareError."""
    shares: dict[str, float] = {}
    for part in spec.split(","):
        name, equals, number = part.strip().partition("=")
        name = name.strip()
        if not is_split_name(name):
            raise PrepareError(f"split {spec!r}: {name!r} is not a name (small letters, digits and _)")
        if name in shares:
            raise PrepareError(f"split {spec!r}: {name} is there twice")
        try:
            share = float(number) if equals else 1.0
        except ValueError:
            raise PrepareError(f"split {spec!r}: {number!r} is not a number; write train=0.95,test=0.05") from None
        if not 0 <= share <= 1:
            raise PrepareError(f"split {spec!r}: the share of {name} is not between 0 and 1")
        shares[name] = share
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise PrepareError(f"split {spec!r}: the shares add up to {sum(shares.values()):g}, not to 1")
    return tuple(shares.items())


def is_split_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def choose_split(content: bytes, splits: Splits, seed: int) -> int:
    """The number of the split that `content` (a digest) falls into; `seed` deals anew."""
    point = int.from_bytes(hashlib.sha256(b"%d:" % seed + content).digest()[:8], "big") / 2**64
    reached = 0.0
    for number, (_, share) in enumerate(splits):
        reached += share
        if point < reached:
            return number
    return _last_with_share(splits)  # the shares' rounding


def _last_with_share(splits: Sequence[tuple[str, float]]) -> int:
    return max(number for number, (_, share) in enumerate(splits) if share > 0)
