"""crossmodal data prepare, as a person uses it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "crossmodal", "data", "prepare", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_prepare(tmp_path: Path, scenes: Path) -> None:
    out = tmp_path / "data"
    result = run(scenes, "--out", out, "--split", "train=0.8,test=0.2", "--json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert summary["pairs"] == sum(split["pairs"] for split in manifest["splits"].values()) == 60
    assert set(manifest["splits"]) == {"train", "test"}

    again = run(scenes, "--out", out, "--split", "train=0.8,test=0.2")
    assert again.returncode == 1
    assert "--overwrite" in again.stderr
    replaced = run(scenes, "--out", out, "--max-side", "64", "--overwrite")
    assert replaced.returncode == 0, replaced.stderr
    assert "pictures/s" in replaced.stdout


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--min-cosine", "0.2"], 1, "min_cosine needs a model"),
        (["--split", "train=0.5"], 1, "add up to 0.5"),
        (["--split", "Train=1"], 1, "not a name"),
        (["--min-side", "9999"], 1, "nothing is left of 60 pictures"),
        (["--against", "/nowhere"], 1, "/nowhere"),
        (["--allow-leakage", "--drop-leakage"], 2, "exclude one another"),
        (["--near-radius", "99"], 2, "near-radius"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, scenes: Path, words: list[str], code: int, says: str) -> None:
    result = run(scenes, "--out", tmp_path / "data", *words)
    assert result.returncode == code, result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "data").exists()


def test_not_writable(tmp_path: Path, scenes: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run(scenes, "--out", tmp_path / "file" / "data")
    assert result.returncode == 1
    assert "cannot be written" in result.stderr
    assert "Traceback" not in result.stderr
