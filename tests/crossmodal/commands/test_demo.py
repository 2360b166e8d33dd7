"""`crossmodal demo` over what an earlier one left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dual_encoder import DualEncoder
from service import server
from tests.crossmodal.command import run_here
from vector_index import IndexDirectory


def test_it_indexes_anew_only_for_another_model(
    index: Path, scenes: Path, encoder: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "serve", lambda *_, **__: None)
    shutil.copytree(index, tmp_path / "index")
    shutil.copytree(scenes.parent, tmp_path / "scenes")
    directory = IndexDirectory(tmp_path / "index")
    before = directory.current()
    assert run_here("demo", "--folder", tmp_path).returncode == 0
    assert directory.current() == before
    path = directory.snapshots / str(before) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["model"]["fingerprint"] = "0" * 64  # of the `tiny` of another release
    path.write_text(json.dumps(manifest))
    assert run_here("demo", "--folder", tmp_path).returncode == 0
    with directory.open() as snapshot:
        assert snapshot.name != before
        assert snapshot.manifest.model.fingerprint == encoder.fingerprint
