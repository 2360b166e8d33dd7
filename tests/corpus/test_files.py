"""A file of the corpus is read where it lies, and nothing else, whoever moves links about meanwhile."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from corpus import files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """corpus/ beside a secret, with links to it."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.png").write_bytes(b"secret")
    root = tmp_path / "corpus"
    (root / "folder").mkdir(parents=True)
    (root / "a.png").write_bytes(b"a picture")
    (root / "folder" / "b.png").write_bytes(b"another")
    (root / "to-a.png").symlink_to("a.png")
    (root / "to-folder").symlink_to("folder")
    (root / "out.png").symlink_to(tmp_path / "secret" / "key.png")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "loop.png").symlink_to("loop.png")
    os.mkfifo(root / "pipe.png")
    return root


@pytest.mark.parametrize("name", ["a.png", "folder/b.png", "to-a.png", "to-folder/b.png", "folder/../a.png"])
def test_what_lies_in_the_corpus_is_read(root: Path, name: str) -> None:
    assert files.read(root, name) in (b"a picture", b"another")
    assert files.read(root, name, 2, 3) in (b"pic", b"oth")


@pytest.mark.parametrize(
    "name",
    ["out.png", "out/key.png", "../secret/key.png", "folder/../../secret/key.png", "/etc/passwd", "to-folder/../../x",
     "/proc/self/environ", "loop.png", "pipe.png", "folder", ".", "", "/dev/zero", "a\0.png", "none.png"],
)  # fmt: skip
def test_nothing_else_is(root: Path, name: str) -> None:
    with pytest.raises((OSError, ValueError)):
        files.read(root, name)


def test_links_that_change_while_it_is_read_lead_nowhere(root: Path) -> None:
    """One thread swaps a folder for a link out of the corpus, and a file too; whatever is read is of the corpus."""
    stop = threading.Event()
    folder, aside, link = root / "folder", root / "aside", root.parent / "link"
    file, kept, bad = root / "a.png", root / "kept.png", root.parent / "bad.png"
    link.symlink_to(root.parent / "secret")
    bad.symlink_to(root.parent / "secret" / "key.png")
    (root.parent / "secret" / "b.png").write_bytes(b"secret")

    def swap() -> None:
        while not stop.is_set():
            folder.rename(aside)
            link.rename(folder)
            file.rename(kept)
            bad.rename(file)
            folder.rename(link)
            aside.rename(folder)
            file.rename(bad)
            kept.rename(file)

    thread = threading.Thread(target=swap)
    thread.start()
    found: list[bytes] = []
    try:
        for _ in range(20_000):
            for name in ("folder/b.png", "a.png"):
                try:
                    found.append(files.read(root, name))
                except OSError:
                    continue
    finally:
        stop.set()
        thread.join(10)
    assert set(found) == {b"a picture", b"another"}
