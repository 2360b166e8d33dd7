"""Figures -> JSON and a table, with the conditions they were measured under."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_VERSIONS = ("openvino", "faiss-cpu", "faiss-gpu", "fastapi", "uvicorn", "numpy")
RESULTS = Path("benchmarks/results")


def conditions() -> dict[str, Any]:
    """What the figures depend on: processor, cores, who else was busy, versions."""
    text = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16") if f" {flag}" in text]
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": f"{names[0] if names else platform.machine()} ({', '.join(wide)})",
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: found for name in _VERSIONS if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def save(name: str, seen: dict[str, Any], rows: Sequence[dict[str, Any]], out: Path | None = None, **more: Any) -> Path:
    """Write one benchmark's rows and print them as a table. `seen` are the conditions; `more` is only in the file."""
    path = out or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"name": name, "conditions": seen, "rows": list(rows), **more}, indent=1) + "\n", "utf-8"
    )
    print("\n".join(f"{key}: {value}" for key, value in seen.items()))
    print("\n".join(table(rows)))
    return path


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Rows as the lines of a Markdown table; the columns are those of all rows."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    return lines + [f"| {' | '.join(shown(row.get(column, '')) for column in columns)} |" for row in rows]


def shown(value: Any) -> str:
    """A value as a table shows it: three significant digits of a fraction, nothing of what is not there."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
