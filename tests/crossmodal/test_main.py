"""The command line as a person uses it: exit codes and one-line errors, of real processes where starting one matters."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crossmodal.command import fails, run, run_here


def test_help_names_every_command() -> None:
    result = run("--help")
    assert result.returncode == 0
    for command in ("index", "search", "serve", "train", "evaluate", "data", "model", "demo"):
        assert command in result.stdout


def test_build_info_verify_search(tmp_path: Path, scenes: Path) -> None:
    index = tmp_path / "index"
    built = run("index", "build", scenes, "--out", index, "--json")
    assert json.loads(built.stdout)["images"] == 60, built.stderr
    info = json.loads(run_here("index", "info", index, "--json").stdout)
    assert info["images"]["rows"] == 60
    assert run_here("index", "verify", index).returncode == 0
    row = json.loads(scenes.read_text("utf-8").splitlines()[0])
    found = json.loads(run("search", index, "--image", scenes.parent / row["image"], "-k", "1", "--json").stdout)
    assert found["hits"][0]["uri"] == row["image"]
    texts = run_here("search", index, "--text", row["caption"][0], "--target", "texts", "-k", "1")
    assert "rank" in texts.stdout

    snapshot = index / "snapshots" / info["snapshot"]
    damaged = bytearray((snapshot / "images.faiss").read_bytes())
    damaged[-1] ^= 1
    (snapshot / "images.faiss").write_bytes(damaged)
    result = run_here("index", "verify", index)
    assert result.returncode == 1
    assert "images.faiss" in result.stdout
    (snapshot / "images.faiss").write_bytes(damaged[:-10])
    fails(1, "search", index, "--text", "x", says="images.faiss")


def test_errors_are_one_line(tmp_path: Path, index: Path) -> None:
    fails(1, "search", tmp_path, "--text", "x", says=str(tmp_path), run=run)
    fails(2, "search", index, says="exactly one of --text and --image")
    fails(2, "search", index, "--text", "x", "-k", "0", says="equal to 1")
    fails(1, "search", index, "--image", "/nowhere.png", says="/nowhere.png")
    fails(1, "serve", tmp_path, says=str(tmp_path), run=run)
    fails(1, "index", "build", tmp_path, "--out", tmp_path / "i", says="no pictures")
    fails(1, "index", "build", tmp_path / "no", "--out", tmp_path / "i", says="no such file")
    fails(1, "model", "info", "/nowhere/model", says="/nowhere/model")
    fails(1, "train", tmp_path / "no.yaml", says="no.yaml")
    (tmp_path / "bad.yaml").write_text("steps: [1\nout: x")
    fails(1, "train", tmp_path / "bad.yaml", says="bad.yaml: not YAML: while parsing a flow sequence; in")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("WORKERS", "many", "CROSSMODAL_WORKERS: Input should be a valid integer"),
        ("CORS_ORIGINS", "https://a.example", "CROSSMODAL_CORS_ORIGINS: not JSON: "),
        ("TRUSTED_PROXIES", '["x"]', "CROSSMODAL_TRUSTED_PROXIES: 0: value is not a valid IPv4 or IPv6 network"),
    ],
)
def test_a_bad_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, index: Path, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(f"CROSSMODAL_{name}", value)
    fails(1, "serve", index, says=says)
    fails(1, "search", index, "--text", "x", says=says)


def test_another_model_is_refused(tmp_path: Path, index: Path) -> None:
    from dual_encoder.record import read_record, write_record
    from dual_encoder.reference import TINY

    other = tmp_path / "other"
    shutil.copytree(TINY, other)
    write_record(other / "model.json", {**read_record(other / "model.json"), "fingerprint": "0" * 64})
    fails(1, "search", index, "--text", "x", "--model", other, says="built with model 'tiny'")
    fails(1, "serve", index, "--model", other, says="000000000000", run=run)


def test_data_scenes(tmp_path: Path) -> None:
    words = ("--count", "5", "--seed", "1", "--split", "unseen", "--language", "zh")
    result = run("data", "scenes", "--out", tmp_path, *words)
    assert result.returncode == 0, result.stderr
    assert len((tmp_path / "captions.jsonl").read_text("utf-8").splitlines()) == 5


def test_model_info() -> None:
    assert json.loads(run_here("model", "info", "tiny", "--json").stdout)["parity"]["fp32"]["text"] > 0.999


def test_a_search_loads_neither_a_server_nor_torch(index: Path) -> None:
    """They would take longer than the search."""
    command = [sys.executable, "-X", "importtime", "-m", "crossmodal", "search", str(index), "--text", "a star"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert "service.engine" in loaded
    assert not loaded & {"fastapi", "uvicorn", "torch", "open_clip"}
