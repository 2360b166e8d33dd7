"""Where a command writes is named, whoever found the disk full."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from crossmodal.writing import writing
from tests.crossmodal.command import fails


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left on device: '.*out'"), writing(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28]")
    with pytest.raises(OSError, match="gone"), writing(tmp_path / "out"):
        raise OSError(errno.ENOENT, "gone")


def test_a_file_in_the_way(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for out in (file, file / "below"):
        fails(1, "data", "scenes", "--out", out, "--count", "1", says=f"error: {out}: a file is in the way of a folder")
