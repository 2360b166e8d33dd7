from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pyarrow as pa

from training.prepare.shards import SplitWriter


def write(folder: Path, count: int, size: int) -> dict[str, object]:
    folder.mkdir()
    writer = SplitWriter(folder, "train", size)
    for i in range(count):
        facts = {
            "captions": [f"picture {i}", "图"],
            "languages": ["en", "zh"],
            "uri": f"{i}.png",
            "group": f"g{i}",
            "x": i,
        }
        writer.add(f"k{i}", "png", bytes([i]) * (700 * i), facts)
    return writer.close()


def test_shards_and_table_agree(tmp_path: Path) -> None:
    entry = write(tmp_path / "a", 7, 3)
    assert (entry["pairs"], entry["captions"]) == (7, 14)
    shards = entry["shards"]
    assert isinstance(shards, list)
    assert [(s["name"], s["pairs"]) for s in shards] == [
        ("train-00000.tar", 3),
        ("train-00001.tar", 3),
        ("train-00002.tar", 1),
    ]
    for part in [*shards, entry["index"]]:
        content = (tmp_path / "a" / part["name"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (part["bytes"], part["sha256"])
    with pa.ipc.open_file(tmp_path / "a" / "train.arrow") as reader:
        rows = reader.read_all().to_pylist()
    assert [r["key"] for r in rows] == [f"k{i}" for i in range(7)]
    for i, row in enumerate(rows):
        content = (tmp_path / "a" / row["shard"]).read_bytes()
        assert content[row["offset"] : row["offset"] + row["length"]] == bytes([i]) * (700 * i)
        assert (row["captions"], row["languages"], row["group"]) == ([f"picture {i}", "图"], ["en", "zh"], f"g{i}")
    with tarfile.open(tmp_path / "a" / "train-00000.tar", "r:") as tar:
        members = tar.getmembers()
        assert [m.name for m in members[:3]] == ["k0.png", "k0.json", "k0.txt"]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
        text = tar.extractfile("k2.txt")
        assert text is not None
        assert text.read() == b"picture 2"


def test_the_same_pairs_give_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a", 5, 2) == write(tmp_path / "b", 5, 2)


def test_an_empty_split(tmp_path: Path) -> None:
    entry = write(tmp_path / "a", 0, 2)
    assert (entry["pairs"], entry["shards"]) == (0, [])
    with pa.ipc.open_file(tmp_path / "a" / "train.arrow") as reader:
        assert reader.read_all().num_rows == 0
