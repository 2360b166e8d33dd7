"""`crossmodal index import`, `index export` and `data dedup`, as a person uses them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.crossmodal.command import fails
from tests.crossmodal.command import run_here as run
from vector_index import IndexDirectory


def test_out_and_in_again(tmp_path: Path, index: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    told = json.loads(run("index", "export", index, "--out", out, "--shard-rows", "40", "--json").stdout)
    assert (told["images"], told["texts"]) == (60, 60)
    assert np.load(out / "img_emb/img_emb_1.npy").shape == (20, 256)
    result = run("index", "import", out, "--out", again, "--model", "tiny", "--index-type", "HNSW8", "--json")
    told = json.loads(result.stdout)
    assert (told["images"], told["rejected"], told["compared"]) == (60, 0, 8), result.stderr
    assert run("index", "verify", again).returncode == 0
    words = ["--text", "a red star", "-k", "5", "--json"]
    before, after = (json.loads(run("search", where, *words).stdout)["hits"] for where in (index, again))
    assert [hit["id"] for hit in before] == [hit["id"] for hit in after]

    written = run("index", "export", again, "--out", tmp_path / "pq", "--format", "parquet")
    assert "60 pictures, 60 captions' vectors" in written.stdout.replace("\n", " ")
    read = run("index", "import", tmp_path / "pq", "--out", again, "--model", "tiny", "--unchecked")
    assert "60 pictures and 60 captions" in read.stdout
    assert "not checked" in read.stdout

    fails(1, "index", "export", index, "--out", out, says="not an empty folder")
    fails(2, "index", "export", index, "--out", tmp_path / "x", "--format", "csv", says="clip-retrieval, parquet")
    fails(2, "index", "import", out, "--out", again, says="--model")
    (out / "metadata/metadata_1.parquet").unlink()
    fails(1, "index", "import", out, "--out", again, "--model", "tiny", says="img_emb_1.npy has no Parquet table")
    fails(1, "index", "import", tmp_path / "pq", "--out", again, "--model", "tiny", "--index-type", "IVF", says="IVF")
    with IndexDirectory(again).lock():
        fails(1, "index", "import", tmp_path / "pq", "--out", again, "--model", "tiny", says="being written by process")


def test_dedup(index: Path, tmp_path: Path) -> None:
    told = json.loads(run("data", "dedup", index, "--threshold", "0.5", "--json").stdout)
    assert told["threshold"] == 0.5
    assert len(told["groups"][0]["ids"]) == len(told["groups"][0]["uris"]) > 1
    table = run("data", "dedup", index, "--threshold", "0.5")
    assert told["groups"][0]["ids"][0] in table.stdout
    assert "pictures more than needed" in table.stdout
    assert json.loads(run("data", "dedup", index, "--threshold", "1", "--json").stdout)["groups"] == []
    fails(1, "data", "dedup", index, "--threshold", "2", says="threshold must be")
    fails(1, "data", "dedup", tmp_path, says="there is no index here")
