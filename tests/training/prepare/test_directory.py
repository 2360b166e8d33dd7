from __future__ import annotations

from pathlib import Path

import pytest

from training.prepare.directory import staged
from training.prepare.errors import PrepareError


def fill(out: Path, text: str = "1", overwrite: bool = False) -> None:
    with staged(out, overwrite) as (folder, work):
        (work / "scratch").write_text("x")
        (folder / "manifest.json").write_text(f'{{"format": "crossmodal-pairs", "n": {text}}}')


def test_published_whole(tmp_path: Path) -> None:
    fill(tmp_path / "deep" / "data")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["data"]
    assert [p.name for p in (tmp_path / "deep" / "data").iterdir()] == ["manifest.json"]


def test_an_empty_folder_may_be_there(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    fill(tmp_path / "data")
    assert (tmp_path / "data" / "manifest.json").exists()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interrupted_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def broken_off(out: Path, overwrite: bool) -> None:
        with staged(out, overwrite) as (folder, _):
            (folder / "train-00000.tar").write_text("half")
            raise error

    fill(tmp_path / "old")
    for name, overwrite in (("new", False), ("old", True)):
        with pytest.raises(error):
            broken_off(tmp_path / name, overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "manifest.json").read_text().endswith('"n": 1}')


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".data.partial" / ".work").mkdir(parents=True)
    (tmp_path / ".data.partial" / "train-00000.tar").write_text("half")
    fill(tmp_path / "data")
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["manifest.json"]


def test_overwriting(tmp_path: Path) -> None:
    fill(tmp_path / "data")
    with pytest.raises(PrepareError, match="--overwrite"):
        fill(tmp_path / "data", "2")
    fill(tmp_path / "data", "2", overwrite=True)
    assert '"n": 2' in (tmp_path / "data" / "manifest.json").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_what_is_not_prepared_data_stays(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters.txt").write_text("dear")
    with pytest.raises(PrepareError, match="something other"):
        fill(tmp_path / "home", overwrite=True)
    with pytest.raises(PrepareError, match="is a file"):
        fill(tmp_path / "home" / "letters.txt", overwrite=True)
    assert (tmp_path / "home" / "letters.txt").read_text() == "dear"


def test_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PrepareError, match="cannot be written"):
        fill(tmp_path / "file" / "data")
    with pytest.raises(PrepareError, match="cannot be written"):
        fill(Path("/proc/data"))


def test_one_at_a_time(tmp_path: Path) -> None:
    with staged(tmp_path / "data", False), pytest.raises(PrepareError, match="another process"):
        fill(tmp_path / "data")
