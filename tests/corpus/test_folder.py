import os
from pathlib import Path

import pytest

from corpus.folder import open_folder


def test_sorted_recursive_pictures_only(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/z.png", "a.png", "c.HEIC", "notes.txt", ".hidden.png", ".cache/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    source = open_folder(tmp_path, {"b.JPG": ("a bee",)})
    records = list(source.records())
    assert [record.uri for record in records] == ["a.png", "a/z.png", "b.JPG", "c.HEIC"]
    assert [record.captions for record in records] == [(), (), ("a bee",), ()]
    assert source.count == 4
    assert [(r.uri, r.stamp) for r in source.records()] == [(r.uri, r.stamp) for r in records]


def test_links_are_not_followed_out_of_the_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"x")
    (root / "own.png").write_bytes(b"x")
    (root / "inside.png").symlink_to(root / "own.png")
    (root / "out.png").symlink_to(outside / "secret.png")
    (root / "folder").symlink_to(outside)
    assert [record.uri for record in open_folder(root).records()] == ["inside.png", "own.png"]


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (record,) = open_folder(tmp_path).records()
    with pytest.raises(ValueError, match="not a regular file"):
        record.read()


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    for byte in (b"\xe8", b"\xe9"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf" + byte + b".png")).write_bytes(byte)
    records = list(open_folder(tmp_path).records())
    assert [(r.uri, r.read()) for r in records] == [("caf\\udce8.png", b"\xe8"), ("caf\\udce9.png", b"\xe9")]


def test_a_link_that_leads_to_itself(tmp_path: Path) -> None:
    for name in ("a.png", "folder"):
        (tmp_path / name).symlink_to(tmp_path / name)
    (record,) = open_folder(tmp_path).records()
    with pytest.raises(OSError, match="symbolic links"):
        record.read()


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "z.png").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    for _ in range(20):  # no path may be longer than 4,096 bytes
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    deep, good = open_folder(tmp_path).records()
    assert (deep.uri[-5:], good.uri) == ("dddd/", "z.png")
    with pytest.raises(OSError, match="too long"):
        deep.read()


def test_the_order_is_that_of_whole_paths(tmp_path: Path) -> None:
    names = [
        "a.png",
        "a-/x.png",
        "a/b.png",
        "a0.png",
        "a/b/c.png",
        "a/b-.png",
        "a/b.c/d.png",
        "a.png.d/e.png",
        "é.png",
        "Z/z.png",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [record.uri for record in open_folder(tmp_path).records()] == sorted(names)
