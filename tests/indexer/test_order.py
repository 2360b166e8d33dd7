"""Order and content of a snapshot, against a build kept in expected_build.json; and how much a build remembers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from indexer import build_index
from vector_index import IndexDirectory

EXPECTED = Path(__file__).parent / "expected_build.json"


class Colours:
    """An encoder quick enough for many pictures: the mean colour is the vector."""

    reference, fingerprint, dim = "colours", "c" * 64, 4
    image_size = (4, 4)
    streams, batch = 1, 32
    runtime: Any = SimpleNamespace(name="mean", precision="fp32")

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        return np.asarray(image.resize((4, 4), Image.Resampling.NEAREST), np.float32).transpose(2, 0, 1)

    def encode_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        return unit(np.hstack([pixels.mean((2, 3)), np.ones((len(pixels), 1), np.float32)]))

    def encode_texts(self, texts: list[str]) -> NDArray[np.float32]:
        return unit(np.array([[len(text), ord(text[0]), ord(text[-1]), 1] for text in texts], np.float32))


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def ppm(number: int) -> bytes:
    """A picture whose bytes are the same with every version of every library."""
    return b"P6 4 4 255\n" + bytes([number % 256, number // 256 % 256, 7]) * 16


def write_corpus(folder: Path) -> Path:
    """Duplicates, captions shared between pictures and said again, own ids taken twice, mixed metadata, rejects."""
    rows: list[dict[str, Any]] = []
    for n in range(60):
        picture = n * 7 % 41  # the later third repeats earlier pictures, in another order
        (folder / f"{n:02}.ppm").write_bytes(ppm(picture))
        row: dict[str, Any] = {"image": f"{n:02}.ppm", "caption": [f"number {picture % 9}", f"row {n % 13}", "all"]}
        if n % 4 == 1:
            row["id"] = f"own-{n % 20}"
        if n % 3 == 0:
            row |= {"year": 1990 + n, "note": "7" if n % 2 else "seven"}
        if n % 11 == 5:
            row["caption"] = [f"number {(picture + 1) % 9}", "x" * 10_001, f"late {n}"]
        rows.append(row)
    rows.insert(9, {"image": "missing.ppm", "caption": "lost", "year": 1})
    rows.insert(30, {"image": "", "caption": "nowhere"})
    (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "table.jsonl"


def content(index: Path) -> dict[str, Any]:
    with IndexDirectory(index).open() as snapshot:
        parts = {
            name: [
                {**row, "vector": [round(float(v), 4) for v in vector]}
                for row, vector in zip(part.take(rows).to_pylist(), part.vectors(rows), strict=True)
            ]
            for name, part in (("images", snapshot.images), ("texts", snapshot.texts))
            for rows in [np.arange(len(part))]
        }
        rejects = (snapshot.path / "rejects.jsonl").read_text().splitlines()
        return {**parts, "rejects": [json.loads(line) for line in rejects]}


@pytest.mark.parametrize("part_size", [7, 16, 1000])
def test_order_and_content_are_what_they_always_were(tmp_path: Path, part_size: int) -> None:
    table = write_corpus(tmp_path)
    report = build_index(table, tmp_path / "index", Colours(), part_size=part_size, batch_size=5)  # type: ignore[arg-type]
    expected = json.loads(EXPECTED.read_text("utf-8"))
    found = content(tmp_path / "index")
    assert found == expected
    counts = (report.images, report.texts, report.rejected, report.duplicates)
    assert counts == (len(found["images"]), len(found["texts"]), 7, 19)
