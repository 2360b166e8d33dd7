"""Copies of pictures are found by their vectors, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dual_encoder import DualEncoder
from indexer import build_index, find_duplicates, remove_from_index
from indexer.dedup import DuplicateGroup
from training.scenes import write_scenes
from vector_index import IndexDirectory, IndexNotFound, ModelStamp, SnapshotWriter


def test_copies_of_pictures(tmp_path: Path, encoder: DualEncoder) -> None:
    """Re-encoded, resized and brightened copies, found among other pictures; not those that were removed."""
    table = write_scenes(tmp_path / "scenes", 40, seed=3, split="test")
    originals = sorted((table.parent / "images").rglob("*.jpg"))
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, path in enumerate(originals):
        (folder / f"{number:02}.jpg").write_bytes(path.read_bytes())
    picture = Image.open(originals[4])
    picture.save(folder / "04-small.jpg", quality=70)
    picture.resize((picture.width * 2, picture.height * 2)).save(folder / "04-large.png")
    Image.open(originals[9]).convert("RGB").save(folder / "09-copy.webp", quality=85)
    build_index(folder, tmp_path / "index", encoder)

    found = find_duplicates(tmp_path / "index", threshold=0.99)
    assert [sorted(group.uris) for group in found] == [
        ["04-large.png", "04-small.jpg", "04.jpg"],
        ["09-copy.webp", "09.jpg"],
    ]
    for group in found:
        assert group.ids == sorted(group.ids)
        with IndexDirectory(tmp_path / "index").open() as snapshot:
            rows = [snapshot.images.row_of(id) for id in group.ids]
            assert snapshot.images.take(rows)["uri"].to_pylist() == group.uris
            vectors = snapshot.images.vectors(rows)
        scores = sorted((vectors @ vectors.T)[np.triu_indices(len(rows), 1)], reverse=True)
        assert group.score == pytest.approx(scores[len(rows) - 2], abs=1e-5)  # of a tree of the nearest

    [gone] = [id for id, uri in zip(found[1].ids, found[1].uris, strict=True) if uri == "09.jpg"]
    remove_from_index(tmp_path / "index", lambda s: [s.images.row_of(gone)])
    assert [len(group.ids) for group in find_duplicates(tmp_path / "index", threshold=0.99)] == [3]


def groups_by_brute_force(vectors: np.ndarray, threshold: float) -> list[list[int]]:
    near = vectors @ vectors.T >= threshold
    left, groups = set(range(len(vectors))), []
    while left:
        group, front = set(), {min(left)}
        while front:
            group |= front
            front = set(np.flatnonzero(near[list(front)].any(axis=0)).tolist()) - group
        left -= group
        if len(group) > 1:
            groups.append(sorted(group))
    return sorted(groups, key=lambda group: (-len(group), group[0]))


def write(index: Path, vectors: np.ndarray, kind: str = "auto") -> None:
    """An index whose ids are the numbers of the rows."""
    directory = IndexDirectory(index)
    model = ModelStamp(reference="tiny", fingerprint="f00d", dim=vectors.shape[1])
    ids = [f"{n:04}" for n in range(len(vectors))]
    with directory.lock(), SnapshotWriter(directory, model=model, source="", index_type=kind) as writer:
        writer.add_images(pa.record_batch({"id": ids, "uri": ids}), vectors)
        writer.publish()


@pytest.mark.parametrize("kind", ["Flat", "HNSW16"])
def test_as_brute_force_says(tmp_path: Path, kind: str) -> None:
    """Groups of up to 300, far more than the neighbours that are asked for at first; of equal vectors too."""
    random = np.random.default_rng(1)
    sizes = [300, 40, 9, 8] + [2] * 30 + [1] * 400
    centres = random.standard_normal((len(sizes), 32))
    vectors = np.repeat(centres, sizes, axis=0)
    vectors[: sizes[0]] += random.standard_normal((sizes[0], 32)) * 0.05
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = random.permutation(len(vectors))
    vectors = vectors[order].astype(np.float32)
    write(tmp_path, vectors, kind)
    found = find_duplicates(tmp_path)
    expected = groups_by_brute_force(vectors, 0.97)
    assert len(expected[0]) == 300
    assert [[int(id) for id in group.ids] for group in found] == expected
    assert all(0.97 <= group.score <= 1.0001 for group in found)
    equal = find_duplicates(tmp_path, threshold=1)
    assert equal == [DuplicateGroup(group.ids, group.ids, pytest.approx(1)) for group in found[1:]]


def on_a_circle(degrees: list[float]) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_two_crowds_that_are_near_each_other(tmp_path: Path) -> None:
    """Each has more copies of its own than are asked for at first; one of them is of equal vectors."""
    degrees = [0.0] * 40 + [12 + n / 100 for n in range(40)] + [90.0] * 3
    write(tmp_path, on_a_circle(degrees).astype(np.float32))
    found = find_duplicates(tmp_path)
    assert [len(group.ids) for group in found] == [80, 3]
    assert found[0].score == pytest.approx(np.cos(np.radians(12)), abs=1e-5)


@pytest.mark.parametrize(
    ("degrees", "weakest"),
    [
        ({0: 0, 1: 13, 2: 6}, 7),  # the nearest pairs join first: 13 degrees are not needed
        ({0: 0, 1: 13, 300: 20, 301: 28}, 13),  # what a later batch joins is nearer
    ],
)
def test_the_weakest_link(tmp_path: Path, degrees: dict[int, float], weakest: float) -> None:
    vectors = np.zeros((302, 64))
    vectors[:, 2:] = np.random.default_rng(0).standard_normal((302, 62))
    for row, at in degrees.items():
        vectors[row] = 0
        vectors[row, :2] = on_a_circle([at])[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    write(tmp_path, vectors.astype(np.float32))
    [group] = find_duplicates(tmp_path)
    assert [int(id) for id in group.ids] == list(degrees)
    assert group.score == pytest.approx(np.cos(np.radians(weakest)), abs=1e-5)


def test_what_cannot_be_looked_for(tmp_path: Path, index: Path) -> None:
    for threshold in (0, -0.5, 1.01, float("nan")):
        with pytest.raises(ValueError, match="threshold must be above 0 and at most 1"):
            find_duplicates(index, threshold=threshold)
    with pytest.raises(IndexNotFound):
        find_duplicates(tmp_path)
