import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vector_index import IndexDirectory, Snapshot, SnapshotCorrupt
from vector_index.segment import _map_rows, open_part

FILES = [
    *(f"{name}.{kind}" for name in ("images", "texts") for kind in ("faiss", "arrow", "order.npy")),
    "thumbnails.arrow",
    "rejects.jsonl",
    "manifest.json",
]


@pytest.fixture
def path(directory: IndexDirectory, publish: Callable[..., str], corpus: Any) -> Path:
    return directory.snapshots / publish(corpus)


def test_roundtrip(path: Path, corpus: Any) -> None:
    with Snapshot(path) as snapshot:
        assert snapshot.verify() == []
        assert sorted(snapshot.manifest.files) == sorted(set(FILES) - {"manifest.json"})
        assert {file.name for file in path.iterdir()} == set(FILES)
        assert (len(snapshot.images), len(snapshot.texts)) == (300, 200)
        assert snapshot.texts.take([3, 1, 3])["id"].to_pylist() == ["t3", "t1", "t3"]
        assert snapshot.images.schema.names == ["id", "uri", "width"]
        assert [snapshot.thumbnail(row) for row in range(300)] == corpus.thumbnails
        with pytest.raises(IndexError):
            snapshot.thumbnail(300)
        images = snapshot.images
    assert images.row_of(corpus.image_ids[9]) == 9  # what is still held stays usable
    with pytest.raises(ValueError, match="closed"):
        len(snapshot.images)


def problems(path: Path) -> list[str]:
    try:
        with Snapshot(path) as snapshot:
            return snapshot.verify()
    except SnapshotCorrupt as error:  # some damage keeps a file from being opened at all
        return [str(error)]


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_found(path: Path, name: str) -> None:
    content = bytearray((path / name).read_bytes())
    place = content.index(b"pictures/") if name == "manifest.json" else len(content) // 2
    content[place] ^= 1
    (path / name).write_bytes(content)
    [problem] = problems(path)
    assert name in problem


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_or_missing_is_refused(path: Path, name: str) -> None:
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[:-3])
    with pytest.raises(SnapshotCorrupt, match=name):
        Snapshot(path)
    (path / name).unlink()
    with pytest.raises(SnapshotCorrupt, match=name):
        Snapshot(path)


def test_a_header_with_a_flipped_bit_is_told_in_a_line(tmp_path: Path) -> None:
    """Some make numpy raise what is neither an OSError nor a ValueError."""
    path = tmp_path / "images.order.npy"
    np.save(path, np.arange(9))
    content = path.read_bytes()
    refused = 0
    for bit in range(400, 600):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            open_part(path, _map_rows)
        except SnapshotCorrupt:
            refused += 1
    assert refused > 50


def test_opening_reads_no_table_into_memory(directory: IndexDirectory, publish: Any, make_corpus: Any) -> None:
    publish(make_corpus(20_000), index_type="Flat")
    before = pa.total_allocated_bytes()
    with directory.open() as snapshot:
        snapshot.images.row_of("img-00042")
        assert (snapshot.path / "images.arrow").stat().st_size > 500_000
        assert pa.total_allocated_bytes() - before < 10_000


def test_the_parts_open_without_this_package(path: Path) -> None:
    import faiss

    assert faiss.read_index(str(path / "images.faiss")).ntotal == 300
    assert pa.ipc.open_file(str(path / "texts.arrow")).read_all().num_rows == 200


def test_importing_the_package_imports_neither_faiss_nor_torch() -> None:
    code = "import sys, vector_index; sys.exit(any(name in sys.modules for name in ('faiss', 'torch')))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_snapshot_of_format_1_opens(path: Path) -> None:
    """It has no segments in its manifest: each collection is one."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["format_version"] = 1
    del manifest["images"]["segments"], manifest["texts"]["segments"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with Snapshot(path) as snapshot:
        assert (len(snapshot.images), len(snapshot.texts)) == (300, 200)
        assert snapshot.thumbnail(1) is not None
        assert snapshot.check_files() == [
            "manifest.json: content changed since it was written (see the snapshot's name)"
        ]
