"""A folder takes the place of another in one step: a kill at any of them leaves the old one or the new one, whole."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dual_encoder import files
from dual_encoder.files import in_native_code, staged


class Killed(BaseException):
    pass


def publish(out: Path, text: str) -> None:
    with staged(out) as folder:
        for name in ("a", "b"):
            (folder / name).write_text(text)


def read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


OLD, NEW = ({"a": text, "b": text} for text in ("old", "new"))


def killed_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Have the n-th call that touches the disk, and all that would come after it, go wrong."""
    steps = itertools.count()

    def struck(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            if next(steps) >= step:
                raise Killed
            return real(*given, **options)

        return call

    for name in ("mkdir", "rename", "unlink", "rmdir", "fsync"):
        patch.setattr(os, name, struck(getattr(os, name)))
    patch.setattr(files, "_swap", struck(files._swap))


@pytest.mark.parametrize("can_swap", [True, False])
def test_in_place_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_swap: bool) -> None:
    if not can_swap:
        monkeypatch.setattr(files, "_swap", lambda *_: errno.EINVAL)
    out, steps = tmp_path / "out", 0
    publish(out, "old")
    for step in itertools.count():
        steps = step
        with monkeypatch.context() as patch:
            killed_at(step, patch)
            try:
                publish(out, "new")
                break
            except Killed:
                pass
        left = read(out) if out.exists() else read(tmp_path / ".out.old")  # what cannot be swapped is moved aside
        assert left in (OLD, NEW)
        assert can_swap == out.exists() or out.exists()
        publish(out, "old")
        assert [(path.name, read(path)) for path in tmp_path.iterdir()] == [("out", OLD)]
    assert steps > 8
    assert [(path.name, read(path)) for path in tmp_path.iterdir()] == [("out", NEW)]


def test_what_was_moved_aside_comes_back(tmp_path: Path) -> None:
    publish(tmp_path / ".out.old", "old")
    with pytest.raises(Killed), staged(tmp_path / "out"):
        raise Killed
    assert [(path.name, read(path)) for path in tmp_path.iterdir()] == [("out", OLD)]


def test_all_is_on_the_disk_before_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []

    def note(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            flushed.append(os.readlink(f"/proc/self/fd/{given[0]}") if name == "fsync" else name)
            return real(*given)

        return call

    for name in ("fsync", "rename"):
        monkeypatch.setattr(os, name, note(name, getattr(os, name)))
    publish(tmp_path / "new" / "out", "new")
    stage = tmp_path / "new" / ".out.partial"
    assert sorted(flushed[:3]) == sorted(map(str, (stage, stage / "a", stage / "b")))
    assert flushed[3] == "rename"
    assert sorted(flushed[4:]) == [str(tmp_path), str(tmp_path / "new")]  # which is new too


def test_one_at_a_time(tmp_path: Path) -> None:
    with staged(tmp_path / "out"), pytest.raises(BlockingIOError, match="another process is writing it"):
        publish(tmp_path / "out", "new")


def test_a_link_stays_one(tmp_path: Path) -> None:
    publish(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    publish(tmp_path / "link", "new")
    assert (tmp_path / "link").readlink() == Path("real")
    assert read(tmp_path / "real") == NEW


def test_what_native_code_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left on device.*x\.json"), in_native_code(tmp_path / "x.json"):
        raise Exception("No space left on device (os error 28)")
