"""Embeddings that exist become a snapshot; what is wrong with them is said."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from corpus import SourceError
from dual_encoder import DualEncoder
from indexer import add_to_index, import_index, importing
from service.results import image_item
from vector_index import Filter, IndexDirectory, IndexLocked, Snapshot


def unit(n: int, dim: int, seed: int = 0) -> Any:
    vectors = np.random.default_rng(seed).standard_normal((n, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def pictures(folder: Path, n: int) -> list[Image.Image]:
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(n):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        made.append(Image.fromarray(pixels).resize((96, 64)))
        made[-1].save(folder / f"{number}.png")
    return made


def write_pair(folder: Path, vectors: Any, columns: dict[str, Any], name: str = "part") -> Path:
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{name}.npy", vectors)
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


def open_index(path: Path) -> Snapshot:
    snapshot = IndexDirectory(path).open()
    assert snapshot.verify() == []
    return snapshot


def rows_of(snapshot: Snapshot) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = snapshot.images.take(snapshot.images.live()).to_pylist()
    return rows


def rejects_of(snapshot: Snapshot) -> dict[str, str]:
    lines = (snapshot.path / "rejects.jsonl").read_text().splitlines()
    return {line["uri"]: line["reason"] for line in map(json.loads, lines)}


def test_what_clip_retrieval_writes(tmp_path: Path, encoder: DualEncoder) -> None:
    """Shards 0, 2, 10 in their numeric order; vectors as the model makes them; captions with theirs."""
    images = pictures(tmp_path / "emb", 12)
    vectors = encoder.encode_images(images).astype(np.float16)
    captions = [f"caption {n % 7}" for n in range(12)]
    said = encoder.encode_texts(captions).astype(np.float16)
    for name in ("img_emb", "text_emb", "metadata"):
        (tmp_path / "emb" / name).mkdir()
    for shard, rows in (("0", range(4)), ("10", range(8, 12)), ("2", range(4, 8))):
        np.save(tmp_path / f"emb/img_emb/img_emb_{shard}.npy", vectors[list(rows)])
        np.save(tmp_path / f"emb/text_emb/text_emb_{shard}.npy", said[list(rows)])
        similarity = [0.5 + n for n in rows] if shard != "2" else [None] * 4
        width: Any = [96.0, None, 96.0, 96.0] if shard == "10" else [96] * 4  # as pandas does where one is missing
        table = {
            "image_path": [f"{n}.png" for n in rows], "caption": [captions[n] for n in rows],
            "key": [f"{n:09}" for n in rows], "width": width, "height": [64] * 4, "url": [f"https://h/{n}" for n in rows],
            "similarity": similarity, "length": [7] * 4, "sha256": ["a" * 64, "no", "B" * 64, None],
        }  # fmt: skip
        pq.write_table(pa.table(table), tmp_path / f"emb/metadata/metadata_{shard}.parquet")
    report = import_index(tmp_path / "emb", tmp_path / "index", encoder)
    assert (report.images, report.texts, report.rejected, report.compared) == (12, 7, 0, 8)
    assert report.cosine is not None
    assert report.cosine > 0.999
    with open_index(tmp_path / "index") as snapshot:
        rows = rows_of(snapshot)
        assert [row["id"] for row in rows] == [f"{n:09}" for n in range(12)]
        assert [row["uri"] for row in rows] == [f"{n}.png" for n in range(12)]
        assert [row["captions"] for row in rows] == [[text] for text in captions]
        assert [row["similarity"] for row in rows] == [*np.arange(4) + 0.5, *[None] * 4, *np.arange(8, 12) + 0.5]
        assert [row["width"] for row in rows] == [96] * 9 + [None] + [96] * 2
        assert [row["sha256"] for row in rows[:4]] == ["a" * 64, None, None, None]
        assert rows[0]["meta_length"] == 7
        assert rows[0]["length"] is None
        assert rows[5]["url"] == "https://h/5"
        np.testing.assert_allclose(snapshot.images.vectors(range(12)), encoder.encode_images(images), atol=1e-3)
        scores, found = snapshot.texts.search(encoder.encode_texts(["caption 3"]), 1)
        assert scores[0, 0] > 0.999
        assert snapshot.texts.take(found[0]).to_pylist()[0]["image_ids"] == ["000000003", "000000010"]
        manifest = snapshot.manifest
        assert (manifest.model.fingerprint, manifest.model.dim) == (encoder.fingerprint, encoder.dim)
        assert manifest.source == str(tmp_path / "emb")
        item = image_item(snapshot, 9)  # what is not known is null over HTTP too
        assert (item.width, item.sha256, item.metadata["url"]) == (None, None, "https://h/9")


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_pairs_of_files(tmp_path: Path, encoder: DualEncoder, kind: Any) -> None:
    vectors = unit(10, encoder.dim)
    scaled = (vectors * np.arange(1, 11)[:, None]).astype(kind)
    for name, rows in (("p10", slice(5, 10)), ("p9", slice(0, 5))):
        write_pair(tmp_path / "emb", scaled[rows], {"id": list(range(10))[rows]}, name)
    report = import_index(tmp_path / "emb", tmp_path / "index", encoder, index_type="HNSW8", target_recall=0.5)
    assert (report.images, report.texts, report.compared, report.cosine) == (10, 0, 0, None)
    with open_index(tmp_path / "index") as snapshot:
        assert [(row["id"], row["uri"]) for row in rows_of(snapshot)] == [(str(n), "") for n in range(10)]
        np.testing.assert_allclose(
            snapshot.images.vectors(range(10)), vectors, atol=1e-3 if kind is np.float16 else 1e-6
        )
        assert snapshot.manifest.images.index.kind == "HNSW8"
        assert set(snapshot.manifest.images.index.queries) == {"images", "texts"}  # without a caption, too
        assert snapshot.manifest.target_recall == 0.5


def test_columns_keep_the_types_that_filters_know(tmp_path: Path, encoder: DualEncoder) -> None:
    at = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    columns = {
        "id": pa.array(["a", "b"]),
        "flag": pa.array([True, None]),
        "small": pa.array([1, 2], pa.int16()),
        "ratio": pa.array([0.5, None], pa.float32()),
        "half": pa.array([0.5, 1], pa.float16()),
        "name": pa.array(["ü", ""], pa.large_string()),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "when": pa.array([at, None], pa.timestamp("us", "UTC")),
        "then": pa.array([at, None], pa.timestamp("ns")),
        "day": pa.array([at.date(), None]),
        "exif": pa.array([{"Make": "猫", "at": at}, None]),
        "tags": pa.array([["p", None, "q"], None], pa.large_list(pa.large_string())),
        "counts": pa.array([[1, 2], []]),
        "raw": pa.array([b"\xff", None]),
        "width": pa.array(["wide", None]),
        "duplicate_uris": pa.array(["here", None]),
        "meta_width": pa.array([1, 2]),
        "empty": pa.array([None, None]),
    }
    write_pair(tmp_path / "emb", unit(2, encoder.dim), columns)
    import_index(tmp_path / "emb", tmp_path / "index", encoder)
    with open_index(tmp_path / "index") as snapshot:
        types = {name: str(snapshot.images.schema.field(name).type) for name in snapshot.images.schema.names}
        assert {name: types.get(name) for name in columns} == {
            "id": "string", "flag": "bool", "small": "int16", "ratio": "float", "half": "float", "name": "string",
            "kind": "string", "when": "string", "then": "string", "day": "string", "exif": "string", "raw": None,
            "tags": "list<item: string>", "counts": "string",
            "width": "int32", "duplicate_uris": "list<item: string>", "meta_width": "int64", "empty": "null",
        }  # fmt: skip
        a, b = rows_of(snapshot)
        assert (a["when"], a["day"], a["kind"], a["name"]) == ("2024-05-06T07:08:09.000000Z", "2024-05-06", "x", "ü")
        assert a["then"] == "2024-05-06T07:08:09.000000000"
        assert json.loads(a["exif"])["Make"] == "猫"
        assert (a["tags"], a["counts"], b["counts"]) == (["p", "q"], "[1, 2]", "[]")
        assert (a["meta_meta_width"], a["meta_width"], a["meta_duplicate_uris"]) == ("wide", 1, "here")
        assert (b["when"], b["exif"], b["flag"], b["width"]) == (None, None, None, None)
        where = {"small": {"$gt": 1}, "kind": "y", "half": {"$gte": 1}}
        assert snapshot.images.live(Filter.parse(where, snapshot.images.schema)).tolist() == [1]


def test_columns_that_differ_between_files(tmp_path: Path, encoder: DualEncoder) -> None:
    one = {"id": ["a"], "n": [1], "mixed": [True], "only": ["x"], "tags": [["p"]], "some": [["p"]]}
    two = {"id": ["b"], "n": [2.5], "mixed": ["no"], "tags": [None], "some": ["p"]}
    write_pair(tmp_path / "emb", unit(1, encoder.dim), one, "1")
    write_pair(tmp_path / "emb", unit(1, encoder.dim), two, "2")
    import_index(tmp_path / "emb", tmp_path / "index", encoder)
    with open_index(tmp_path / "index") as snapshot:
        told = [tuple(row[name] for name in ("n", "mixed", "only", "tags", "some")) for row in rows_of(snapshot)]
        assert told == [(1.0, "true", "x", ["p"], '["p"]'), (2.5, "no", None, None, "p")]


def test_rows_of_no_use_are_rejects_with_a_reason(tmp_path: Path, encoder: DualEncoder) -> None:
    vectors = unit(7, encoder.dim)
    vectors[1] = 0
    vectors[2, 3] = np.nan
    vectors[3, 0] = np.inf
    ids = ["a", "zero", "nan", "inf", "a", None, None]
    uris = ["a.jpg", "zero.jpg", "nan.jpg", None, "again.jpg", "no-id.jpg", None]
    captions = [["one", "x" * 10_001, "one"], [], [], [], [], [], []]
    columns = {"id": ids, "uri": uris, "captions": captions, "number": list(range(7))}
    write_pair(tmp_path / "emb", vectors, columns)
    report = import_index(tmp_path / "emb", tmp_path / "index", encoder)
    assert (report.images, report.rejected) == (2, 6)
    with open_index(tmp_path / "index") as snapshot:
        assert rejects_of(snapshot) == {
            "zero.jpg": "the vector has length 0",
            "nan.jpg": "the vector has NaN or infinity in it",
            "inf": "the vector has NaN or infinity in it",
            "again.jpg": "id 'a' belongs to another picture already",
            "part.parquet row 6": "there is neither an id nor an address",
            "a.jpg": "a caption has 10,001 characters, more than 10,000",
        }
        first, second = rows_of(snapshot)
        assert (first["captions"], first["number"], second["number"]) == (["one"], 0, 5)
        assert (second["uri"], len(second["id"])) == ("no-id.jpg", 16)
        np.testing.assert_allclose(snapshot.images.vectors([0, 1]), vectors[[0, 5]], atol=1e-6)


def test_many_rows(tmp_path: Path, encoder: DualEncoder) -> None:
    """More than are read at a time: vectors stay with their rows, a repeated id is seen across batches and files."""
    for name in ("img_emb", "text_emb", "metadata"):
        (tmp_path / "emb" / name).mkdir(parents=True)
    vectors, said = unit(2501, encoder.dim), unit(2501, encoder.dim, seed=1)
    ids = [str(n) for n in range(2500)] + ["7"]
    for number, rows in ((0, slice(None)), (1, slice(0, 1))):
        np.save(tmp_path / f"emb/img_emb/img_emb_{number}.npy", vectors[rows])
        np.save(tmp_path / f"emb/text_emb/text_emb_{number}.npy", said[rows])
        table = pa.table({"key": ids[rows], "caption": [f"number {id}" for id in ids[rows]]})
        pq.write_table(table, tmp_path / f"emb/metadata/metadata_{number}.parquet")
    report = import_index(tmp_path / "emb", tmp_path / "index", encoder)
    assert (report.images, report.texts, report.rejected) == (2500, 2500, 2)
    with open_index(tmp_path / "index") as snapshot:
        np.testing.assert_allclose(snapshot.images.vectors(range(2500)), vectors[:2500], atol=1e-6)
        np.testing.assert_allclose(snapshot.texts.vectors(range(2500)), said[:2500], atol=1e-6)
        assert snapshot.texts.take([2400])["text"].to_pylist() == ["number 2400"]


@pytest.mark.parametrize("fixed", [True, False])
def test_vectors_in_a_column(tmp_path: Path, encoder: DualEncoder, fixed: bool) -> None:
    vectors = unit(4, encoder.dim)
    kind = pa.list_(pa.float64(), encoder.dim) if fixed else pa.large_list(pa.float32())
    given: list[Any] = [vectors[0].tolist(), None, vectors[2].tolist(), vectors[3].tolist()]
    if not fixed:
        given[2] = [0.5, 0.5]
    (tmp_path / "emb").mkdir()
    table = pa.table({"vector": pa.array(given, kind), "uri": list("abcd"), "caption": ["one", "two", "three", "one"]})
    pq.write_table(table, tmp_path / "emb/images.parquet")
    said = pa.array([given[0], given[0], given[3], given[3]], kind)
    texts = pa.table({"text": [" one", "four", "three", "one"], "vector": said})  # the first of two counts
    pq.write_table(texts, tmp_path / "emb/texts.parquet")
    report = import_index(tmp_path / "emb", tmp_path / "index", encoder)
    assert (report.images, report.texts) == ((3, 2) if fixed else (2, 1))
    with open_index(tmp_path / "index") as snapshot:
        rejects = rejects_of(snapshot)
        assert rejects["b"] == "there is no vector"
        assert rejects["texts.parquet: four"] == "no picture has this caption"
        if not fixed:
            assert rejects["c"] == f"the vector has dim 2; the model's have {encoder.dim}"
        kept = [0, 2, 3] if fixed else [0, 3]
        np.testing.assert_allclose(snapshot.images.vectors(range(len(kept))), vectors[kept], atol=1e-6)
        told = {text["text"]: text["image_ids"] for text in snapshot.texts.take(snapshot.texts.live()).to_pylist()}
        ids = {row["uri"]: row["id"] for row in rows_of(snapshot)}
        assert told["one"] == [ids["a"], ids["d"]]
        np.testing.assert_allclose(snapshot.texts.vectors([0]), vectors[[0]], atol=1e-6)


def test_captions_without_vectors_are_encoded_where_asked(
    tmp_path: Path, encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_BATCH", 2)
    texts = ["a red star", "two", "three", "four", "five"]
    columns = {"id": ["a", "b"], "text": [texts, ["a red star"]]}
    write_pair(tmp_path / "emb", unit(2, encoder.dim), columns)
    assert import_index(tmp_path / "emb", tmp_path / "index", encoder).texts == 0
    report = import_index(tmp_path / "emb", tmp_path / "index", encoder, encode_captions=True)
    assert report.texts == 5
    with open_index(tmp_path / "index") as snapshot:
        np.testing.assert_allclose(snapshot.texts.vectors(range(5)), encoder.encode_texts(texts), atol=1e-3)
        assert snapshot.texts.take([0])["image_ids"].to_pylist() == [["a", "b"]]
        assert len(IndexDirectory(tmp_path / "index").names()) == 2


def test_vectors_of_another_model_are_refused(tmp_path: Path, encoder: DualEncoder) -> None:
    pictures(tmp_path / "emb", 3)
    columns = {"image_path": [*(f"{n}.png" for n in range(3)), "gone.png"]}
    write_pair(tmp_path / "emb", unit(4, encoder.dim), columns)
    with pytest.raises(SourceError, match=r"not of model 'tiny': 3 pictures .* mean cosine of -?0.* less than 0.95"):
        import_index(tmp_path / "emb", tmp_path / "index", encoder)
    assert not (tmp_path / "index").exists()
    assert import_index(tmp_path / "emb", tmp_path / "index", encoder, checked=False).compared == 0
    with pytest.raises(SourceError, match="not of model"):  # the addresses may be absolute, or lie elsewhere
        import_index(write_pair(tmp_path / "more", unit(4, encoder.dim), columns), tmp_path / "index", encoder,
                     source=tmp_path / "emb")  # fmt: skip
    absolute = {"image_path": [str(tmp_path / "emb" / name) for name in columns["image_path"]]}
    with pytest.raises(SourceError, match="not of model"):
        import_index(write_pair(tmp_path / "abs", unit(4, encoder.dim), absolute), tmp_path / "index", encoder)


def test_adding_to_what_was_imported(tmp_path: Path, encoder: DualEncoder) -> None:
    """The same files, whose bytes nobody has seen, take the place of what was imported."""
    images = pictures(tmp_path / "emb", 3)
    columns = {"image_path": [f"{n}.png" for n in range(2)], "caption": ["one", "two"]}
    write_pair(tmp_path / "emb", encoder.encode_images(images[:2]), columns)
    import_index(tmp_path / "emb", tmp_path / "index", encoder)
    report = add_to_index(tmp_path / "emb", tmp_path / "index", encoder)
    assert (report.added, report.removed) == (3, 2)
    with open_index(tmp_path / "index") as snapshot:
        assert sorted(row["uri"] for row in rows_of(snapshot)) == ["0.png", "1.png", "2.png"]


def _object_array(folder: Path, dim: int) -> None:
    vectors = np.empty((2, dim), object)
    vectors[:] = 0.5
    np.save(folder / "part.npy", vectors, allow_pickle=True)


BAD: dict[str, tuple[Any, str]] = {
    "no table": (lambda f, d: (f / "part.parquet").unlink(), r"part\.npy has no Parquet table"),
    "no vectors": (lambda f, d: pq.write_table(pa.table({"id": ["x"]}), f / "more.parquet"), r"more\.parquet has no \.npy"),
    "rows": (lambda f, d: np.save(f / "part.npy", unit(3, d)), r"part\.npy: 3 rows, 2 in .*part\.parquet"),
    "dim": (lambda f, d: np.save(f / "part.npy", unit(2, d + 1)), r"part\.npy: vectors of dim 257; the model's have 256"),
    "pickled": (_object_array, r"part\.npy: pickled objects are not read \(allow_pickle=False\)"),
    "whole numbers": (lambda f, d: np.save(f / "part.npy", np.ones((2, d), int)), r"part\.npy: int64 of shape"),
    "flat": (lambda f, d: np.save(f / "part.npy", np.ones(2)), r"part\.npy: float64 of shape \(2,\)"),
    "cut short": (lambda f, d: (f / "part.npy").write_bytes((f / "part.npy").read_bytes()[:-9]), r"part\.npy: not readable"),
    "no npy": (lambda f, d: (f / "part.npy").write_bytes(b"PK\x03\x04"), r"part\.npy: not readable as \.npy"),
    "no parquet": (lambda f, d: (f / "part.parquet").write_bytes(b"no"), r"part\.parquet: "),
    "empty": (lambda f, d: [p.unlink() for p in f.iterdir()], r"there are no embeddings here; expected img_emb"),
    "no column": (lambda f, d: write_pair(f, unit(2, d), {"year": [1, 2]}), r"no column tells an id .* there are year"),
    "all zero": (lambda f, d: np.save(f / "part.npy", np.zeros((2, d))), r"no usable row in .*: 2 rejected, the first: a:"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_imported(tmp_path: Path, encoder: DualEncoder, what: str) -> None:
    folder = write_pair(tmp_path / "emb", unit(2, encoder.dim), {"id": ["a", "b"]})
    import_index(folder, tmp_path / "index", encoder)
    before = IndexDirectory(tmp_path / "index").current()
    damage, message = BAD[what]
    damage(folder, encoder.dim)
    with pytest.raises(SourceError, match=message):
        import_index(folder, tmp_path / "index", encoder)
    directory = IndexDirectory(tmp_path / "index")
    assert directory.current() == before
    assert [path.name for path in directory.snapshots.iterdir()] == [before]


def test_columns_of_vectors_that_cannot_be_imported(tmp_path: Path, encoder: DualEncoder) -> None:
    path = tmp_path / "images.parquet"
    for column, message in [
        ({"id": ["a"]}, "images.parquet: there is no column `vector`; there are id"),
        ({"id": ["a"], "vector": ["text"]}, "images.parquet: the column `vector` is string, not a list of floats"),
        ({"id": ["a"], "vector": [[0.5, 0.5]]}, "images.parquet: vectors of dim 2; the model's have 256"),
        ({"id": ["a"], "vector": pa.array([[0.5, 0.5]], pa.list_(pa.float32(), 2))}, "vectors of dim 2"),
    ]:
        pq.write_table(pa.table(column), path)
        with pytest.raises(SourceError, match=message):
            import_index(tmp_path, tmp_path / "index", encoder)
    with pytest.raises(SourceError, match="nowhere: there is no such folder"):
        import_index(tmp_path / "nowhere", tmp_path / "index", encoder)


def test_clip_retrieval_shards_that_do_not_fit(tmp_path: Path, encoder: DualEncoder) -> None:
    for name in ("img_emb", "text_emb", "metadata"):
        (tmp_path / name).mkdir()
    with pytest.raises(SourceError, match="there are no embeddings here"):
        import_index(tmp_path, tmp_path / "index", encoder)
    for number in (0, 1):
        np.save(tmp_path / f"img_emb/img_emb_{number}.npy", unit(2, encoder.dim))
        pq.write_table(pa.table({"image_path": ["a", "b"]}), tmp_path / f"metadata/metadata_{number}.parquet")
    np.save(tmp_path / "text_emb/text_emb_0.npy", unit(2, encoder.dim))
    with pytest.raises(SourceError, match=r"img_emb_1\.npy has no text_emb/text_emb_1\.npy"):
        import_index(tmp_path, tmp_path / "index", encoder)
    np.save(tmp_path / "text_emb/text_emb_1.npy", unit(3, encoder.dim))
    with pytest.raises(SourceError, match=r"text_emb_1\.npy: 3 rows, 2 in"):
        import_index(tmp_path, tmp_path / "index", encoder)


def test_a_locked_index_is_left_alone(tmp_path: Path, encoder: DualEncoder) -> None:
    folder = write_pair(tmp_path / "emb", unit(2, encoder.dim), {"id": ["a", "b"]})
    with IndexDirectory(tmp_path / "index").lock(), pytest.raises(IndexLocked, match="being written by process"):
        import_index(folder, tmp_path / "index", encoder)
    assert not IndexDirectory(tmp_path / "index").names()
