"""What is exported comes back as it was: ids, captions, metadata and their types, vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from corpus import SourceError
from dual_encoder import DualEncoder
from indexer import add_to_index, build_index, export_index, import_index, remove_from_index
from vector_index import IndexDirectory, IndexNotFound


@pytest.fixture
def changed(tmp_path: Path, encoder: DualEncoder) -> Path:
    """An index of two segments with deleted rows, duplicates, every type of metadata, and a caption of two pictures."""

    def table(numbers: range, year: Any) -> Path:
        (tmp_path / "corpus").mkdir(exist_ok=True)
        lines = []
        for n in numbers:
            pixels = np.random.default_rng(n).integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"corpus/{n}.png")
            captions = [f"first {n // 2}", "every", f"only {n}"]
            lines.append({"image": f"{n}.png", "id": f"p{n}", "caption": captions, "year": year(n), "good": n % 2 == 0,
                          "price": n / 4, "name": "猫", "image_path": "mine", "vector": [1, 2],
                          "tags": [None, [], ["猫", "x"]][n % 3]})  # fmt: skip
        Image.open(tmp_path / f"corpus/{numbers[0]}.png").save(tmp_path / "corpus/copy.png")
        path = tmp_path / "corpus/table.jsonl"
        path.write_text("\n".join(map(json.dumps, [*lines, {**lines[0], "image": "copy.png"}])))
        return path

    index = tmp_path / "index"
    build_index(table(range(20), lambda n: 1990 + n), index, encoder)
    add_to_index(table(range(20, 24), lambda n: None), index, encoder)
    remove_from_index(index, lambda s: [s.images.row_of(id) for id in ("p3", "p22")])
    with IndexDirectory(index).open() as snapshot:
        assert len(snapshot.images.segments) == 2
        assert any(len(segment.deleted) for segment in snapshot.images.segments)
    return index


def content_of(index: Path) -> dict[str, Any]:
    with IndexDirectory(index).open() as snapshot:
        assert snapshot.verify() == []
        images, texts = snapshot.images, snapshot.texts
        return {
            "pictures": images.take(images.live()).to_pylist(),
            "types": {name: images.schema.field(name).type for name in images.schema.names},
            "vectors": images.vectors(images.live()),
            "texts": {
                row["text"]: (row["id"], row["image_ids"], vector)
                for row, vector in zip(texts.take(texts.live()).to_pylist(), texts.vectors(texts.live()), strict=True)
            },
            "source": snapshot.manifest.source,
        }


def assert_same(before: dict[str, Any], after: dict[str, Any], renamed: dict[str, str]) -> None:
    def named(row: dict[str, Any]) -> dict[str, Any]:
        return {renamed.get(name, name): value for name, value in row.items()}

    assert [named(row) for row in before["pictures"]] == after["pictures"]
    assert named(before["types"]) == after["types"]
    assert before["source"] == after["source"]
    np.testing.assert_allclose(before["vectors"], after["vectors"], atol=1e-3)
    for text, (id, image_ids, vector) in after["texts"].items():
        known_id, known_image_ids, known_vector = before["texts"][text]
        assert (id, sorted(image_ids)) == (known_id, sorted(known_image_ids))
        np.testing.assert_allclose(vector, known_vector, atol=1e-3)


def test_parquet_and_back(tmp_path: Path, changed: Path, encoder: DualEncoder) -> None:
    report = export_index(changed, tmp_path / "out", format="parquet")
    again = import_index(tmp_path / "out", tmp_path / "again", encoder)
    before, after = content_of(changed), content_of(tmp_path / "again")
    assert (report.images, report.texts) == (again.images, again.texts) == (22, len(before["texts"]))
    assert again.compared == 8
    assert_same(before, after, {"vector": "meta_vector"})
    assert before["texts"].keys() == after["texts"].keys()
    assert (tmp_path / "out").stat().st_mode & 0o777 == (tmp_path / "again").stat().st_mode & 0o777
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "corpus", "index", "out"]


@pytest.mark.parametrize("shard_rows", [1_000_000, 7])
def test_clip_retrieval_and_back(tmp_path: Path, changed: Path, encoder: DualEncoder, shard_rows: int) -> None:
    """First captions keep their vectors; the others are encoded where that is asked for."""
    (tmp_path / "out").mkdir()  # an empty one is taken
    report = export_index(changed, tmp_path / "out", shard_rows=shard_rows)
    assert (report.images, report.texts) == (22, 22)
    shards = 1 if shard_rows > 22 else 4
    assert len(list((tmp_path / "out/text_emb").iterdir())) == shards
    first = np.load(tmp_path / "out/img_emb/img_emb_0.npy")
    assert (first.dtype, first.shape) == (np.float16, (min(22, shard_rows), encoder.dim))
    told = pq.read_table(tmp_path / "out/metadata/metadata_0.parquet").to_pylist()[0]
    assert (told["image_path"], told["caption"], told["id"]) == ("1.png", "first 0", "p1")
    assert (told["meta_image_path"], told["year"]) == ("mine", 1991)

    before = content_of(changed)
    import_index(tmp_path / "out", tmp_path / "again", encoder)
    after = content_of(tmp_path / "again")
    assert_same(before, after, {"image_path": "meta_image_path"})
    assert after["texts"].keys() == {f"first {n}" for n in range(12)}
    import_index(tmp_path / "out", tmp_path / "again", encoder, encode_captions=True)
    assert content_of(tmp_path / "again")["texts"].keys() == before["texts"].keys()


def test_captions_without_vectors_export_none(tmp_path: Path, changed: Path, encoder: DualEncoder) -> None:
    """One picture without a caption, or captions without vectors: there is no text_emb at all."""
    Image.new("RGB", (40, 40)).save(tmp_path / "corpus/plain.png")
    plain = tmp_path / "plain.jsonl"
    plain.write_text(json.dumps({"image": "corpus/plain.png"}))
    add_to_index(plain, changed, encoder)
    assert export_index(changed, tmp_path / "out", shard_rows=9).texts == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["img_emb", "metadata"]
    assert import_index(tmp_path / "out", tmp_path / "bare", encoder).texts == 0
    assert export_index(tmp_path / "bare", tmp_path / "out2", format="parquet").texts == 0
    assert [path.name for path in (tmp_path / "out2").iterdir()] == ["images.parquet"]
    assert_same(content_of(tmp_path / "bare"), content_of(tmp_path / "bare"), {})


def test_another_models_export_is_refused(tmp_path: Path, changed: Path, encoder: DualEncoder) -> None:
    export_index(changed, tmp_path / "out")
    path = tmp_path / "out/metadata/metadata_0.parquet"
    table = pq.read_table(path)
    metadata = {
        name: value.replace(encoder.fingerprint.encode(), b"f00d") for name, value in table.schema.metadata.items()
    }
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(SourceError, match=r"exported from an index of model 'tiny' \(f00d\), not of 'tiny'"):
        import_index(tmp_path / "out", tmp_path / "again", encoder)
    pq.write_table(table.replace_schema_metadata({"crossmodal": '{"added": 5}'}), path)  # no mark of ours
    import_index(tmp_path / "out", tmp_path / "again", encoder)


def test_where_it_cannot_be_exported_to(tmp_path: Path, changed: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="out is there already and is not an empty folder"):
        export_index(changed, tmp_path / "out")
    with pytest.raises(ValueError, match=r"mine\.txt is there already"):
        export_index(changed, tmp_path / "out/mine.txt")
    with pytest.raises(ValueError, match="format 'csv' is not one of"):
        export_index(changed, tmp_path / "new", format="csv")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        export_index(changed, tmp_path / "new", shard_rows=0)
    with pytest.raises(IndexNotFound):
        export_index(tmp_path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, changed: Path) -> None:
    def full(_: object) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        export_index(changed, tmp_path / "out", progress=full)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_a_locked_index_can_be_exported(tmp_path: Path, changed: Path) -> None:
    with IndexDirectory(changed).lock():
        assert export_index(changed, tmp_path / "out", format="parquet").images == 22
    assert pq.read_schema(tmp_path / "out/images.parquet").field("vector").type == pa.list_(pa.float32(), 256)
