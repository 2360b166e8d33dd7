"""What the service asks of a snapshot: the same of an index directory and of Milvus (Lite, in a file)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vector_index.test_filters import combined
from tests.vector_index.test_kinds import vectors
from vector_index import BadFilter, BadParameter, Filter, IndexDirectory, ModelStamp, SnapshotWriter, UnknownId
from vector_index.milvus import MilvusStore
from vector_index.store import Collection, Snapshot, open_store

DIM = 16
N = 150
NASTY = ['a"b', "a\\", "雨\n", '" or row >= 0 or c0_id == "', "x' or 1 == 1", "%", ""]
SCHEMA = pa.schema(
    [
        ("id", pa.string()), ("uri", pa.string()), ("captions", pa.list_(pa.string())), ("in", pa.int32()),
        ("photo credit", pa.string()), ("写真", pa.float32()), ("free", pa.bool_()), ("nothing", pa.null()),
    ]
)  # fmt: skip
ROWS: list[dict[str, Any]] = [
    {
        "id": f"i{n}" if n % 10 else f"i{n}{NASTY[n // 10 % len(NASTY)]}", "uri": f"{n}.jpg",
        "captions": [None, [], ["one"], ["one", "two"], ["one", NASTY[n % 7]]][n % 5],
        "in": None if n % 7 == 0 else n % 6 - 2, "photo credit": None if n % 4 == 0 else NASTY[n % 7],
        "写真": None if n % 5 == 0 else n / 10 - 2, "free": [True, False, None][n % 3], "nothing": None,
    }
    for n in range(N)
]  # fmt: skip


VECTORS, TEXT_VECTORS, QUERIES = vectors(N, DIM, 1), vectors(20, DIM, 2), vectors(5, DIM, 3)
KEPT = [n for n in range(N) if n not in (3, 17, 99)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> IndexDirectory:
    """Two segments, some rows of the first deleted."""
    directory = IndexDirectory(tmp_path_factory.mktemp("store") / "index")
    options: dict[str, Any] = {"model": ModelStamp(reference="tiny", fingerprint="f00d", dim=DIM), "source": "here"}
    pictures = pa.RecordBatch.from_pylist(ROWS, SCHEMA)
    thumbnails = [f"webp {n}".encode() if n % 3 else None for n in range(N)]
    texts = {"id": [f"t{n}" for n in range(20)], "text": [f"text {n}" for n in range(20)]}
    named = pa.array([[ROWS[n + 20]["id"]] for n in range(20)], pa.list_(pa.string()))
    with SnapshotWriter(directory, **options) as writer:
        writer.add_images(pictures.slice(0, 120), VECTORS[:120], thumbnails[:120])
        writer.add_texts(pa.record_batch({**texts, "image_ids": named}), TEXT_VECTORS)
        writer.publish()
    with directory.open() as base, SnapshotWriter(directory, base=base, **options) as writer:
        writer.remove_images([3, 17, 99])
        writer.add_images(pictures.slice(120), VECTORS[120:], thumbnails[120:])
        writer.publish()
    return directory


@pytest.fixture(scope="module")
def milvus(directory: IndexDirectory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusStore]:
    store = MilvusStore(f"milvus+file://{tmp_path_factory.mktemp('milvus')}/x.db/pictures", timeout=30)
    assert store.current() is None
    with directory.open() as snapshot:
        assert store.publish(snapshot) == snapshot.name
    yield store
    store.close()


@pytest.fixture(scope="module", params=["faiss", "milvus"])
def snapshot(request: pytest.FixtureRequest, directory: IndexDirectory, milvus: MilvusStore) -> Snapshot:
    return directory.open() if request.param == "faiss" else milvus.open()


def ids(collection: Collection, rows: Any) -> list[str]:
    return [str(id) for id in collection.take(rows, ["id"])["id"].to_pylist()]


def test_what_is_known(snapshot: Snapshot, directory: IndexDirectory) -> None:
    assert snapshot.name == directory.current()
    assert snapshot.manifest.model.fingerprint == "f00d"
    assert (snapshot.manifest.images.rows, snapshot.manifest.texts.rows) == (147, 20)
    assert snapshot.images.schema.equals(SCHEMA)
    assert snapshot.images.exhaustive
    assert snapshot.check_files() == []
    assert snapshot.verify() == []


@pytest.mark.parametrize("k", [1, 10, 500])
def test_search_is_exact(snapshot: Snapshot, k: int) -> None:
    scores, rows = snapshot.images.search(QUERIES, k)
    expected = -np.sort(-(QUERIES @ VECTORS[KEPT].T), axis=1)[:, :k]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    best = np.array(KEPT)[np.argsort(-(QUERIES @ VECTORS[KEPT].T), axis=1)[:, :k]]
    assert [ids(snapshot.images, each) for each in rows] == [[ROWS[n]["id"] for n in each] for each in best]
    texts, _ = snapshot.texts.search(QUERIES, k, modality="images")
    np.testing.assert_allclose(texts, -np.sort(-(QUERIES @ TEXT_VECTORS.T), axis=1)[:, :k], atol=1e-6)


def test_no_query_and_no_parameter(snapshot: Snapshot) -> None:
    assert snapshot.images.search(np.empty((0, DIM)), 3)[1].shape == (0, 3)
    with pytest.raises(BadParameter, match="it is exact"):
        snapshot.images.search(QUERIES, 3, params={"efSearch": 10})


def test_rows_and_vectors(snapshot: Snapshot) -> None:
    wanted = [ROWS[n] for n in (140, 5, 5, 70, 0)]
    rows = [snapshot.images.row_of(row["id"]) for row in wanted]
    table = snapshot.images.take(rows)
    assert table.schema.equals(SCHEMA)
    float32 = [{**row, "写真": None if row["写真"] is None else float(np.float32(row["写真"]))} for row in wanted]
    assert table.to_pylist() == float32
    np.testing.assert_allclose(snapshot.images.vectors(rows), VECTORS[[140, 5, 5, 70, 0]], atol=1e-6)
    assert snapshot.images.take(rows, ["nothing"]).to_pylist() == [{"nothing": None}] * 5
    thumbnails = [snapshot.thumbnail(row) for row in rows]
    assert thumbnails == [b"webp 140", b"webp 5", b"webp 5", b"webp 70", None]
    for id in ("i3", "nobody", '" or row >= 0 or c0_id == "', "\x00"):
        with pytest.raises(UnknownId):
            snapshot.images.row_of(id)
    with pytest.raises(IndexError):
        snapshot.images.take([10_000])


def test_values_are_counted(snapshot: Snapshot) -> None:
    images = snapshot.images
    where = images.parse_filter({"in": {"$gte": 1}})
    for condition, kept in (
        (None, [ROWS[n] for n in KEPT]),
        (where, [ROWS[n] for n in KEPT if (ROWS[n]["in"] or 0) >= 1]),
    ):
        credits = [row["photo credit"] for row in kept if row["photo credit"] is not None]
        assert dict(images.value_counts("photo credit", condition)) == {v: credits.count(v) for v in set(credits)}
    assert images.value_counts("captions")[0] == ("one", sum("one" in (ROWS[n]["captions"] or []) for n in KEPT))
    numbers = Counter(ROWS[n]["in"] for n in KEPT if ROWS[n]["in"] is not None)
    best = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))[:7]
    assert images.value_counts("in", most=7) == best  # of those as common, the least first
    assert images.value_counts("nothing") == []


VALUES: dict[str, list[Any]] = {
    "in": [-2, 0, 2, 1.5, -0.5, 1.0, 10**30, -(10**30), 2**63, -(2**63)],
    "写真": [-2, 0.5, 1.25, 0.1, 1e-7, 1e300],
    "photo credit": [*NASTY, "zzz"],
    "captions": ["one", "two", *NASTY],
    "id": ["i1", "i50x' or 1 == 1"],
    "free": [True, False],
}  # fmt: skip


@st.composite
def condition(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from([*VALUES, "nothing"]))
    exists = st.fixed_dictionaries({"$exists": st.booleans()})
    if name == "nothing":
        return {name: draw(exists)}
    value = st.sampled_from(VALUES[name])
    operators = ["$eq", "$ne"] + ([] if name in ("captions", "free") else ["$gt", "$gte", "$lt", "$lte"])
    several = st.lists(value, max_size=3)
    parts = st.one_of(
        st.dictionaries(st.sampled_from(operators), value, min_size=1, max_size=2),
        st.fixed_dictionaries({"$in": several}),
        st.fixed_dictionaries({"$nin": several}),
        exists,
    )
    return {name: draw(st.one_of(value, parts, st.fixed_dictionaries({"$not": parts})))}


@pytest.fixture(scope="module")
def both(directory: IndexDirectory, milvus: MilvusStore) -> tuple[Snapshot, Snapshot]:
    return directory.open(), milvus.open()


@settings(max_examples=40)
@given(wanted=combined(condition(), max_leaves=5))
def test_filters_keep_the_same_rows(both: tuple[Snapshot, Snapshot], wanted: dict[str, Any]) -> None:
    found = []
    for snapshot in both:
        where = snapshot.images.parse_filter(wanted)
        scores, rows = snapshot.images.search(QUERIES[:1], 200, where=where)
        assert snapshot.images.count(where) == rows.shape[1]
        found.append((ids(snapshot.images, rows[0]), scores))
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-6)


def test_what_milvus_has_no_expression_for(both: tuple[Snapshot, Snapshot]) -> None:
    wanted = {"$not": {"captions": {"$gt": "a"}}}
    assert isinstance(both[0].images.parse_filter(wanted), Filter)
    with pytest.raises(BadFilter, match=r"captions: \$gt on a column of lists cannot be asked of this store"):
        both[1].images.parse_filter(wanted)


def test_one_of_the_two_is_opened(tmp_path: Path) -> None:
    assert isinstance(open_store(tmp_path, None), IndexDirectory)
    assert isinstance(open_store(None, "milvus://127.0.0.1/x"), MilvusStore)
    for index, address in ((None, None), (tmp_path, "milvus://127.0.0.1/x")):
        with pytest.raises(ValueError, match="one of them"):
            open_store(index, address)
