import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from corpus import SourceError, open_source, webdataset
from corpus.webdataset import open_shards


def write_shard(path: Path, members: dict[str, bytes], mode: Literal["w", "a"] = "w") -> Path:
    with tarfile.open(path, mode) as tar:
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


def test_links(tmp_path: Path, draw: Callable[..., bytes]) -> None:
    """As a cache of downloads has them."""
    write_shard(tmp_path / "blobs", {"a.png": draw(1)})
    (tmp_path / "shards").mkdir()
    link = tmp_path / "shards" / "0.tar"
    link.symlink_to("../blobs")
    assert [record.uri for record in open_source(link).records()] == ["blobs#a.png"]
    with pytest.raises(SourceError, match=r"0\.tar: a link out of .*cp -L"):
        open_source(tmp_path / "shards")


def test_dots_in_names(tmp_path: Path, draw: Callable[..., bytes]) -> None:
    members = {
        "IMG.001.png": draw(1), "IMG.001.txt": b"one", "IMG.002.png": draw(2), "a.mask.png": draw(3), "a.png": draw(4),
        "a.txt": b"four", "._a.png": b"of macOS", "b.txt": b"first", "b.png": draw(5),
        "b.json": json.dumps({"captions": ["first", "second"]}).encode(), "c.json": b"[" * 100_000, "c.png": draw(6),
    }  # fmt: skip
    records = list(open_shards([write_shard(tmp_path / "0.tar", members)], tmp_path).records())
    assert [(r.uri.removeprefix("0.tar#"), r.captions) for r in records] == [
        ("IMG.001.png", ("one",)), ("IMG.002.png", ()), ("a.png", ("four",)), ("b.png", ("first", "second")),
        ("c.png", ()),
    ]  # fmt: skip
    assert [r.read() for r in records] == [draw(seed) for seed in (1, 2, 4, 5, 6)]


@pytest.mark.parametrize("held", [0, 12, 2**20])
def test_members_in_any_order(
    tmp_path: Path, draw: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    """`tar cf 0.tar *.png *.txt`, and what `tar` makes of a folder whose names are in no order."""
    monkeypatch.setattr(webdataset, "_HELD", held)
    pictures = {f"{n}.png": draw(n) for n in range(3)}
    others = {"2.txt": b"two", "0.json": b'\xef\xbb\xbf{"licence": "cc0"}', "1.txt": b"\xef\xbb\xbfone"}
    for members in ({**pictures, **others}, {**others, **pictures}):
        records = open_shards([write_shard(tmp_path / "0.tar", members)], tmp_path).records()
        found = {r.uri.removeprefix("0.tar#"): (r.captions, r.metadata, r.read()) for r in records}
        assert found == {
            "0.png": ((), {"licence": "cc0"}, draw(0)),
            "1.png": (("one",), {}, draw(1)),
            "2.png": (("two",), {}, draw(2)),
        }


def test_samples_of_one_name_are_not_one(tmp_path: Path, draw: Callable[..., bytes]) -> None:
    path = write_shard(tmp_path / "0.tar", {"a.PNG": draw(1), "a.txt": b"one", "b.png": draw(3)})
    write_shard(path, {"a.png": draw(2), "A.png": draw(4), "a.txt": b"two"}, "a")
    records = open_shards([path], tmp_path).records()
    assert [(r.captions, r.read()) for r in records] == [
        (("one",), draw(1)), ((), draw(3)), (("two",), draw(2)), ((), draw(4)),
    ]  # fmt: skip


@pytest.mark.parametrize("kept", [0, 700, 1800])
def test_a_broken_shard_costs_only_itself(tmp_path: Path, draw: Callable[..., bytes], kept: int) -> None:
    broken = write_shard(tmp_path / "0.tar", {"a.png": draw(1), "b.png": draw(2)})
    broken.write_bytes(broken.read_bytes()[:kept])
    whole = write_shard(tmp_path / "1.tar", {"c.png": draw(3)})
    *before, last = open_shards([broken, whole], tmp_path).records()
    assert last.read() == draw(3)
    with pytest.raises(ValueError, match="cut short"):
        before[-1].read()
