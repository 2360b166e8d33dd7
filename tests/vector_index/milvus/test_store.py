"""Publishing to Milvus: the alias names the old snapshot or the new one, whole."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from vector_index import IndexDirectory, IndexNotFound, SnapshotCorrupt, StoreUnavailable
from vector_index.errors import BeyondStore, StoreRefused
from vector_index.milvus import MilvusStore, collection, connection, loading
from vector_index.milvus.collection import MilvusCollection

Write = Callable[..., str]


def test_publish_switch_back_and_collect(directory: IndexDirectory, write: Write, store: MilvusStore) -> None:
    with pytest.raises(IndexNotFound, match="no index here"):
        store.open()
    names = []
    for count in (5, 6, 7):
        names.append(write(count))
        with directory.open() as snapshot:
            store.publish(snapshot)
        assert store.current() == names[-1]
        assert len(store.open().images) == count
    assert store.names() == names

    loaded: list[int] = []
    directory.make_current(names[0])
    with directory.open() as snapshot:
        store.publish(snapshot, progress=lambda done, total: loaded.append(done))
    assert store.current() == names[0]
    assert loaded == []
    old = store.open()
    assert store.collect(keep=1) == [names[1]]
    assert store.names() == [names[0], names[2]]
    assert old.verify() == []


def test_broken_off_leaves_the_old_one(directory: IndexDirectory, write: Write, store: MilvusStore) -> None:
    first = write(5)
    with directory.open() as snapshot:
        store.publish(snapshot)
    second = write(6)

    def die(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with directory.open() as snapshot:
        with pytest.raises(KeyboardInterrupt):
            store.publish(snapshot, progress=die)
        assert (store.current(), store.names()) == (first, [first])
        assert store.open().verify() == []
        assert store.publish(snapshot) == second
    assert len(store.open().images) == 6
    assert store.open().verify() == []


def test_what_cannot_be_held_is_named(directory: IndexDirectory, write: Write, store: MilvusStore) -> None:
    columns = {"id": ["a"], "uri": ["x"]}
    for name, values, said in (
        ("note", pa.array(["é" * 40_000]), "column 'note' has a text of 80,000 bytes; the store holds 65,535"),
        ("tags", pa.array([["a", None]]), "column 'tags' has a list with null in it"),
        ("tags", pa.array([["a"] * 5_000]), "column 'tags' has a list of 5,000 values"),
        ("when", pa.array([{"a": 1}]), "column 'when' is of struct"),
    ):
        write(batch=pa.record_batch({**columns, name: values}))
        with directory.open() as snapshot, pytest.raises(ValueError, match=said):
            store.publish(snapshot)
    with directory.open() as snapshot, pytest.raises(ValueError, match="'DISKANN' is not one of auto, FLAT"):
        store.publish(snapshot, index_type="DISKANN")
    assert (store.current(), store.names()) == (None, [])


def test_what_breaks_off_is_dropped(
    directory: IndexDirectory, write: Write, store: MilvusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"id": ["a", "b"], "uri": ["x", "y"], "sizes": pa.array([[1.0, math.nan, math.inf], [math.nan]])}
    write(batch=pa.record_batch(rows))
    with directory.open() as snapshot, monkeypatch.context() as patch:
        patch.setattr(loading, "entities", lambda table, fields: [{"c2_sizes": [1.0, None]}] * 2)
        with pytest.raises(StoreRefused, match="sizes"):
            store.publish(snapshot)
        assert store._bases(set(store._connection.call("list_collections"))) == []
    with directory.open() as snapshot, monkeypatch.context() as patch:
        patch.setattr(MilvusCollection, "counted", lambda self: 1)
        with pytest.raises(StoreUnavailable, match="1 rows are there of 2"):
            store.publish(snapshot)
        assert store._bases(set(store._connection.call("list_collections"))) == []
    with directory.open() as snapshot:
        store.publish(snapshot)
    assert store.open().images.take([0, 1])["sizes"].to_pylist() == [[1.0], []]


def test_rows_that_are_gone_are_noticed(directory: IndexDirectory, write: Write, store: MilvusStore) -> None:
    write(50)
    with directory.open() as snapshot:
        store.publish(snapshot)
    opened = store.open()
    store._connection.call("delete", opened.images.name, filter="row in [7, 8]")
    assert opened.check_files() == [f"{opened.images.name}: 48 rows, 50 were published"]
    assert "48 rows" in opened.verify()[0]


def test_a_collection_that_is_gone_is_damage(directory: IndexDirectory, write: Write, store: MilvusStore) -> None:
    write(texts=2)
    with directory.open() as snapshot:
        store.publish(snapshot)
    opened = store.open()
    store._connection.call("drop_collection", opened.texts.name)
    assert opened.check_files() == opened.verify() == [f"{opened.texts.name} is not there"]
    with pytest.raises(SnapshotCorrupt, match="_texts is not there"):
        store.open()


@pytest.mark.parametrize(("kind", "parameter"), [("HNSW", "efSearch"), ("IVF_FLAT", "nprobe")])
def test_approximate_indexes_are_measured(
    directory: IndexDirectory, write: Write, store: MilvusStore, kind: str, parameter: str
) -> None:
    write(1_500)
    with directory.open() as snapshot:
        store.publish(snapshot, index_type=kind)
        opened = store.open()
        queries = snapshot.images.vectors(range(0, 1_500, 50))
        truth = snapshot.images.search(queries, 10)[0]
    stamp = opened.manifest.images.index
    point = stamp.queries["images"]
    assert stamp.kind == kind
    assert stamp.recall == point.recall_at_10 >= 0.95
    assert parameter in point.parameters
    assert point.curve
    assert not opened.images.exhaustive
    scores, _ = opened.images.search(queries, 10, modality="images")
    assert np.mean(scores >= truth[:, -1:] - 1e-5) >= 0.9
    least, _ = opened.images.search(queries, 10, params={parameter: 1})
    most, rows = opened.images.search(queries, 10, params={parameter: opened.images._limits[parameter]})
    assert least.sum() < most.sum()
    np.testing.assert_allclose(most, truth, atol=1e-5)
    assert opened.images.search(queries[:1], 2_000)[1].shape == (1, 1_500)
    assert (rows >= 0).all()


def test_values_of_too_many_rows_are_not_counted(
    directory: IndexDirectory, write: Write, store: MilvusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(30)
    with directory.open() as snapshot:
        store.publish(snapshot)
    monkeypatch.setattr(collection, "_MOST_COUNTED", 10)
    monkeypatch.setattr(collection, "MOST_FOUND", 4)
    images = store.open().images
    with pytest.raises(BeyondStore, match="at most 10 rows of this store, and 30 are kept"):
        images.value_counts("uri")
    assert images.value_counts("uri", images.parse_filter({"id": {"$gte": "i4"}})) == [("x.jpg", 6)]


@pytest.mark.parametrize("listens", [False, True])
def test_nobody_answers(listens: bool) -> None:
    """A port that nobody has, and one where nothing is ever said."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if listens:
            taken.listen()
        store = MilvusStore(f"milvus://127.0.0.1:{taken.getsockname()[1]}/x", timeout=0.3)
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1"):
            store.current()
        assert time.monotonic() - began < 3
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="has not answered for"):
            store.current()
        assert time.monotonic() - began < 0.25  # without waiting 0.3 s
        assert store.down_for > 0
        store.close()


def test_a_slow_call_fails_alone(store: MilvusStore) -> None:
    store.current()
    with pytest.raises(StoreUnavailable, match="DEADLINE_EXCEEDED"):
        store._connection.call("list_collections", timeout=-1)  # over before it begins
    store.current()
    while store._connection._doubted:
        time.sleep(0.01)
    assert store.down_for == 0


def test_looking_goes_on_whatever_happens(store: MilvusStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_LOOK", 0.01)
    looks = iter([AttributeError("no such thing"), StoreUnavailable("not yet")])

    def revive(call: object) -> None:
        if (error := next(looks, None)) is not None:
            raise error

    store._connection.revive = revive
    store._connection._watch(StoreUnavailable("it is away"))
    began = time.monotonic()
    while store.down_for:
        assert time.monotonic() - began < 5
        time.sleep(0.01)
    assert next(looks, None) is None


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="not exists"):
        MilvusStore(f"milvus+file://{tmp_path}/nowhere/x.db").current()
