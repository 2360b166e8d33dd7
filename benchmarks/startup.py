"""Time from the start of the process to ready, and memory: with nothing compiled yet, and the second time.

Cold: the cache of compiled models is empty and the model's and index's files are out of the page cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.common import model_and_index, ours, parser


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--repeat", type=int, default=3, help="warm starts; the fastest counts")
    given = options.parse_args()
    model, index = model_and_index(given.folder, seed=given.seed)
    seen = report.conditions()
    with tempfile.TemporaryDirectory() as empty:
        environment = {"XDG_CACHE_HOME": empty}
        forget(model, index)
        rows = [start("serve, cold", index, environment)]
        warm = [start("serve, warm", index, environment) for _ in range(given.repeat)]
        rows.append(min(warm, key=lambda row: row["seconds"]))
        times = [shell(index, environment) for _ in range(given.repeat + 1)][1:]
        rows.append({"what": "crossmodal search, whole process, warm", "seconds": min(times)})
    seen["load_average_after"] = report.conditions()["load_average"]
    report.save("startup", seen, rows, given.out)


def start(what: str, index: Path, environment: dict[str, str]) -> dict[str, Any]:
    with ours(index, **environment) as service:
        return {"what": what, "seconds": service.ready_after, "rss_mb": service.resident / 2**20}


def shell(index: Path, environment: dict[str, str]) -> float:
    command = [sys.executable, "-m", "crossmodal", "search", str(index), "--text", "a red bus in the snow", "--json"]
    began = time.perf_counter()
    subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True)
    return time.perf_counter() - began


def forget(*folders: Path) -> None:
    """Have the system drop the files from its cache; it may keep what others use."""
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
