"""Numbers with a unit, as people write them: 4GB, 1.5ms."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import typer

BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
MILLISECONDS = {"US": 1e-3, "MS": 1.0, "S": 1e3}
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


def quantity(text: str, units: Mapping[str, float], option: str) -> float:
    """Return what a number with a unit stands for. Raises typer.BadParameter, which names the units."""
    found = _NUMBER.fullmatch(text)
    unit = units.get(found[2].upper()) if found else None
    value = float(found[1]) * unit if found and unit is not None else math.nan
    if not 0 < value < math.inf:
        names = ", ".join(name.lower() for name in units) if "MS" in units else ", ".join(units)
        raise typer.BadParameter(f"{text!r} is not a number above 0 with a unit ({names})", param_hint=option)
    return value
