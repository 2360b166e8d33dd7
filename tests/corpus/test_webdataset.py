import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from corpus.webdataset import open_shards


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_groups_in_order_readable_at_random(tmp_path: Path, draw: Callable[..., bytes]) -> None:
    facts = json.dumps({"caption": "from json", "url": "http://x", "width": 1}).encode()
    second = write_shard(tmp_path / "00001.tar", {"000010.png": draw(3), "000010.caption": b"three"})
    first = write_shard(
        tmp_path / "00000.tar",
        {"000000.jpg": draw(1, "jpg"), "000000.txt": b"one\n", "000000.json": facts, "000001.json": facts,
         "000002.json": facts, "000002.png": draw(2)},
    )  # fmt: skip
    records = list(open_shards([second, first], tmp_path).records())
    assert [r.uri for r in records] == ["00000.tar#000000.jpg", "00000.tar#000002.png", "00001.tar#000010.png"]
    assert [r.captions for r in records] == [("one",), ("from json",), ("three",)]
    assert records[0].metadata == {"url": "http://x"}
    assert [r.read() for r in reversed(records)] == [draw(3), draw(2), draw(1, "jpg")]
    assert records[1].offset is not None
    assert records[1].length == len(draw(2))
    assert first.read_bytes()[records[1].offset :].startswith(draw(2))


@pytest.mark.parametrize("kept", [0, 700, 1800])
def test_a_broken_shard_costs_only_itself(tmp_path: Path, draw: Callable[..., bytes], kept: int) -> None:
    broken = write_shard(tmp_path / "0.tar", {"a.png": draw(1), "b.png": draw(2)})
    broken.write_bytes(broken.read_bytes()[:kept])
    whole = write_shard(tmp_path / "1.tar", {"c.png": draw(3)})
    *before, last = open_shards([broken, whole], tmp_path).records()
    assert last.read() == draw(3)
    with pytest.raises(ValueError, match="cut short"):
        before[-1].read()
