"""A peer's own virtual environment, made on first use in the cache."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from benchmarks.common import cache

PEERS = Path(__file__).parent


def clip_retrieval() -> Path:
    """The Python that has clip-retrieval. Raises RuntimeError when it cannot be installed."""
    return _environment("clip-retrieval", "setuptools<81", "-r", str(PEERS / "clip_retrieval.txt"))


def infinity() -> Path:
    """The Python that has infinity-emb. Raises RuntimeError when it cannot be installed."""
    return _environment("infinity-emb", "-r", str(PEERS / "infinity.txt"))


def _environment(name: str, *packages: str) -> Path:
    """A virtual environment with these packages alone, which also sees this project's: torch is the same for all."""
    place = cache() / "peers" / name
    python = place / "bin" / "python"
    if not (place / "whole").is_file():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        shared = Path(sysconfig.get_path("purelib", vars={"base": str(place)}), "shared.pth")
        shared.write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
        command: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--no-deps", *packages]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name} cannot be installed: {done.stderr.strip()[-250:]}")
        (place / "whole").touch()
    return python
