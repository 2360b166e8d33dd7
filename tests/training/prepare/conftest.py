from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """picture(seed, width=…, height=…, format=…): a smooth picture, unlike that of any other seed."""

    def make(seed: int, width: int = 96, height: int = 80, format: str = "PNG", **save: Any) -> bytes:
        coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(out, format, **save)
        return out.getvalue()

    return make


@pytest.fixture
def table(tmp_path: Path) -> Callable[[list[tuple[bytes | None, dict[str, Any]]]], Path]:
    """table([(bytes or None, row), …]) -> a JSONL; a row without bytes names a file that is not there."""

    def write(rows: list[tuple[bytes | None, dict[str, Any]]]) -> Path:
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        path = folder / "pairs.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for number, (data, row) in enumerate(rows):
                name = row.get("image", f"{number:03d}.png")
                if data is not None:
                    (folder / name).write_bytes(data)
                file.write(json.dumps({**row, "image": name}, ensure_ascii=False) + "\n")
        return path

    return write


@pytest.fixture
def read() -> Callable[[Path], dict[str, list[dict[str, Any]]]]:
    """Prepared data -> split -> rows of its table, each with `image` read from the shard at offset and length."""

    def rows(data: Path) -> dict[str, list[dict[str, Any]]]:
        manifest = json.loads((data / "manifest.json").read_text("utf-8"))
        found = {}
        for name, split in manifest["splits"].items():
            with pa.ipc.open_file(data / split["index"]["name"]) as reader:
                found[name] = reader.read_all().to_pylist()
            for row in found[name]:
                content = (data / row["shard"]).read_bytes()
                row["image"] = content[row["offset"] : row["offset"] + row["length"]]
        return found

    return rows


@pytest.fixture
def rejects() -> Callable[[Path], list[dict[str, Any]]]:
    def lines(data: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (data / "rejects.jsonl").read_text("utf-8").splitlines()]

    return lines
