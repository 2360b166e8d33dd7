"""A file of the corpus is read where it lies, and nothing else, whoever moves links about meanwhile."""

from __future__ import annotations

import os
import tracemalloc
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


def test_a_name_that_is_no_utf8_is_read_by_its_address(root: Path) -> None:
    (root / os.fsdecode(b"caf\xe9.png")).write_bytes(b"coffee")
    assert files.read(root, "caf\\udce9.png") == b"coffee"
    (root / "caf\\udce9.png").write_bytes(b"tea")
    assert files.read(root, "caf\\udce9.png") == b"tea"


def test_a_small_file_takes_little_memory(root: Path) -> None:
    tracemalloc.start()
    try:
        assert files.read(root, "a.png") == b"a picture"
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_file_that_tells_no_size_is_read_as_far_as_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = files.read_local(Path("/proc/self/cmdline"))
    assert whole == Path("/proc/self/cmdline").read_bytes() != b""
    monkeypatch.setattr(files, "MAX_BYTES", len(whole) - 1)
    with pytest.raises(ValueError, match="bytes allowed"):
        files.read_local(Path("/proc/self/cmdline"))


@pytest.mark.parametrize(
    "name",
    ["out.png", "out/key.png", "../secret/key.png", "folder/../../secret/key.png", "/etc/passwd", "to-folder/../../x",
     "/proc/self/environ", "loop.png", "pipe.png", "folder", ".", "", "/dev/zero", "a\0.png", "none.png"],
)  # fmt: skip
def test_nothing_else_is(root: Path, name: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises((OSError, ValueError)):
        files.read(root, name)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("name", "swapped"), [("folder/b.png", "folder"), ("a.png", "a.png")])
def test_a_link_put_in_its_way_after_it_was_looked_at_leads_nowhere(
    root: Path, name: str, swapped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check of the name and the opening, a folder or the file itself becomes a link out of the corpus."""
    secret = root.parent / "secret"
    (secret / "b.png").write_bytes(b"secret")
    real, opened = os.open, []

    def swap_and_open(path: Path, flags: int) -> int:
        (root / swapped).rename(root.parent / "aside")
        (root / swapped).symlink_to(secret if swapped == "folder" else secret / "key.png")
        opened.append(path)
        return real(path, flags)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", swap_and_open)
        with pytest.raises(OSError, match=r"leads out|symbolic links"):
            files.read(root, name)
    assert opened
