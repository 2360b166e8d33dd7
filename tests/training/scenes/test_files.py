"""A folder of scenes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from training.scenes import write_scenes


def test_files(tmp_path: Path) -> None:
    table = write_scenes(tmp_path, 12, 0, "train", ["zh"])
    rows = [json.loads(line) for line in table.read_text("utf-8").splitlines()]
    assert len(rows) == 12
    assert set(rows[0]["language"]) == {"zh"}
    assert Image.open(tmp_path / rows[-1]["image"]).size == (256, 256)
    for wrong in ({"split": "x"}, {"languages": ["fr"]}, {"count": 0}):
        with pytest.raises(ValueError, match=r"x|fr|0"):
            write_scenes(tmp_path, **{"count": 1, "seed": 0, **wrong})  # type: ignore[arg-type]

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path, 12, 1, on_progress=stop)
    assert not table.exists()  # the old one would tell of other pictures
