"""crossmodal data prepare, as a person uses it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from tests.crossmodal.command import fails, run_here

prepare = partial(run_here, "data", "prepare")


def test_prepare(tmp_path: Path, scenes: Path) -> None:
    out = tmp_path / "data"
    result = prepare(scenes, "--out", out, "--split", "train=0.8,test=0.2", "--json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert summary["pairs"] == sum(split["pairs"] for split in manifest["splits"].values()) == 60
    assert set(manifest["splits"]) == {"train", "test"}

    again = prepare(scenes, "--out", out, "--split", "train=0.8,test=0.2")
    assert again.returncode == 1
    assert "--overwrite" in again.stderr
    replaced = prepare(scenes, "--out", out, "--max-side", "64", "--overwrite")
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
        (["--captions", "https://a.example/b"], 1, "is not a folder: --captions goes with a folder"),
        (["--allow-leakage", "--drop-leakage"], 2, "exclude one another"),
        (["--near-radius", "99"], 2, "near-radius"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, scenes: Path, words: list[str], code: int, says: str) -> None:
    fails(code, "data", "prepare", scenes, "--out", tmp_path / "data", *words, says=says)
    assert not (tmp_path / "data").exists()


def test_not_writable(tmp_path: Path, scenes: Path) -> None:
    (tmp_path / "file").write_text("")
    fails(1, "data", "prepare", scenes, "--out", tmp_path / "file" / "data", says="cannot be written")
