"""Snapshots made of snapshots: what was added and removed, against a plain dictionary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from vector_index import Filter, IndexDirectory, ModelStamp, Snapshot, SnapshotWriter, UnknownId, tuning

DIM = 8
MODEL = ModelStamp(reference="tiny", fingerprint="f00d", dim=DIM)


def unit(rng: np.random.Generator, n: int) -> Any:
    vectors = rng.standard_normal((n, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Changes(RuleBasedStateMachine):
    """Every rule publishes a snapshot; the invariant compares it with what it should hold."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)
        self.directory = IndexDirectory(self.folder / str(len(list(self.folder.iterdir()))))
        self.images: dict[str, dict[str, Any]] = {}
        self.texts: dict[str, dict[str, Any]] = {}
        self.number = 0
        self.change(add=30, column="width", seed=0)

    def change(self, *, add: int = 0, column: str = "width", seed: int, remove: int = 0, compact: bool = False) -> None:
        """Remove some pictures (and captions of nothing left), add some, half of them under ids just removed."""
        self.rng = np.random.default_rng(seed)
        base = self.directory.open() if self.images else None
        with self.directory.lock(), SnapshotWriter(self.directory, model=MODEL, source="x", base=base) as writer:
            gone = [str(id) for id in self.rng.permutation(sorted(self.images))[: min(remove, len(self.images) - 1)]]
            if base is not None:
                writer.remove_images([base.images.row_of(id) for id in gone])
                writer.remove_images([base.images.row_of(id) for id in gone[:2]])  # twice is once
                lost = [id for id, text in self.texts.items() if set(text["image_ids"]) & set(gone)]
                writer.remove_texts([base.texts.row_of(id) for id in lost])
                for id in lost:
                    del self.texts[id]
            for id in gone:
                del self.images[id]
            ids = [*gone[: add // 2], *(f"p{self.number + i}" for i in range(add - len(gone[: add // 2])))]
            self.number += add
            if ids:
                vectors, values = unit(self.rng, len(ids)), self.rng.integers(0, 100, len(ids)).tolist()
                small = [None if i % 3 else f"webp {id}".encode() for i, id in enumerate(ids)]
                batch = pa.record_batch({"id": ids, "uri": [f"{id}.jpg" for id in ids], column: values})
                writer.add_images(batch, vectors, small)
                for id, vector, value, thumbnail in zip(ids, vectors, values, small, strict=True):
                    self.images[id] = {"vector": vector, column: value, "thumbnail": thumbnail}
                names = [f"t{id}" for id in ids if f"t{id}" not in self.texts]
                vectors = unit(self.rng, len(names))
                columns = {"id": names, "text": names, "image_ids": [[name[1:]] for name in names]}
                schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("image_ids", pa.list_(pa.string()))])
                writer.add_texts(pa.record_batch(columns, schema=schema), vectors)
                for name, vector in zip(names, vectors, strict=True):
                    self.texts[name] = {"vector": vector, "image_ids": [name[1:]]}
            writer.publish(compact=compact)

    @rule(
        add=st.just(0) | st.integers(1, 9),
        remove=st.just(0) | st.integers(1, 4),
        column=st.sampled_from(["width", "year"]),
        seed=st.integers(0, 999),
        compact=st.sampled_from([False, False, False, True]),
    )
    def changes(self, add: int, remove: int, column: str, seed: int, compact: bool) -> None:
        self.change(add=add, remove=remove, column=column, seed=seed, compact=compact)
        if compact:
            with self.directory.open() as snapshot:
                assert len(snapshot.images.segments) == len(snapshot.texts.segments) == 1
                assert len(snapshot.images.live()) == len(snapshot.images) == snapshot.manifest.images.segments[0].rows

    @invariant()
    def holds_what_it_should(self) -> None:
        with self.directory.open() as snapshot:
            assert snapshot.verify() == []
            for collection, model in ((snapshot.images, self.images), (snapshot.texts, self.texts)):
                self.compare(collection, model)
            assert {
                snapshot.images.take([row])["id"][0].as_py(): snapshot.thumbnail(row) for row in snapshot.images.live()
            } == {id: item["thumbnail"] for id, item in self.images.items()}
            where = Filter.parse({"width": {"$gte": 50}}, snapshot.images.schema)
            kept = {id for id, item in self.images.items() if item.get("width", 0) >= 50}
            assert set(snapshot.images.take(snapshot.images.live(where), ["id"])["id"].to_pylist()) == kept
            assert snapshot.images.count(where) == len(kept)
            _, rows = snapshot.images.search(unit(self.rng, 2), 5, where=where)
            assert set(snapshot.images.take(rows.ravel(), ["id"])["id"].to_pylist()) <= kept
            for segments in (snapshot.images.segments, snapshot.texts.segments):
                assert len(segments) <= 1 + math.log2(sum(map(len, segments)) or 1)

    def compare(self, collection: Any, model: dict[str, dict[str, Any]]) -> None:
        ids = list(model)
        assert len(collection) == len(ids)
        assert sorted(collection.take(collection.live(), ["id"])["id"].to_pylist()) == sorted(ids)
        if not ids:
            return
        rows = [collection.row_of(id) for id in ids]
        vectors = np.stack([model[id]["vector"] for id in ids])
        np.testing.assert_allclose(collection.vectors(rows), vectors, atol=1e-6)
        queries = unit(self.rng, 3)
        scores, found = collection.search(queries, 7)
        best = -np.sort(-(queries @ vectors.T), axis=1)[:, :7]
        np.testing.assert_allclose(scores, best, atol=1e-5)
        again = np.einsum("qd,qkd->qk", queries, collection.vectors(found.ravel()).reshape(*found.shape, DIM))
        np.testing.assert_allclose(again, scores, atol=1e-5)
        for column in set(collection.schema.names) & {"width", "year"}:
            counted = Counter(item[column] for item in model.values() if column in item)
            assert dict(collection.value_counts(column, most=1000)) == counted
            assert collection.take(rows, [column])[column].to_pylist() == [model[id].get(column) for id in ids]
        with pytest.raises(UnknownId):
            collection.row_of("never")


def test_any_sequence_of_changes(tmp_path: Path) -> None:
    Changes.folder = tmp_path
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Changes,
        settings=settings(max_examples=8, stateful_step_count=8, suppress_health_check=list(HealthCheck)),
    )


def test_a_small_change_links_what_is_large(
    directory: IndexDirectory, publish: Callable[..., str], corpus: Any
) -> None:
    first = directory.snapshots / publish(corpus)
    base = Snapshot(first)
    with (
        directory.lock(),
        SnapshotWriter(directory, model=base.manifest.model, source="pictures/", base=base) as writer,
    ):
        ids = pa.record_batch({"id": ["new"], "uri": ["broken.jpg"], "width": [1]})
        writer.add_images(ids, corpus.image_vectors[:1])
        writer.add_reject("other.jpg", "no")
        second = directory.snapshots / writer.publish()
    for name in ("images.faiss", "images.arrow", "images.order.npy", "thumbnails.arrow", "texts.faiss"):
        assert (first / name).stat().st_ino == (second / name).stat().st_ino
    assert sorted(p.name for p in second.iterdir() if p.name.startswith("images-")) == [
        "images-1.arrow", "images-1.faiss", "images-1.order.npy",
    ]  # fmt: skip
    rejects = (second / "rejects.jsonl").read_text("utf-8")
    assert "broken.jpg" not in rejects  # it is a picture now
    assert Snapshot(second).manifest.rejects == 1


def test_what_is_added_to_much_is_of_its_kind(
    directory: IndexDirectory, publish: Callable[..., str], make_corpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "FLAT_ROWS", 700)
    monkeypatch.setattr(tuning, "choose_index_types", lambda vectors, *_: tuning.candidates(*vectors.shape)[:1])
    publish(make_corpus(1_500), target_recall=0.9)
    monkeypatch.setattr(tuning, "choose_index_types", lambda *_: pytest.fail("chosen anew"))
    base = directory.open()
    more = make_corpus(800, seed=1)
    images = more.images.set_column(0, "id", pa.array([f"new {id}" for id in more.image_ids]))
    with directory.lock(), SnapshotWriter(
        directory, model=base.manifest.model, source="x", base=base, target_recall=0.9
    ) as writer:  # fmt: skip
        writer.add_images(images, more.image_vectors)
        writer.publish()
    [old, new] = directory.open().manifest.images.segments
    assert new.index.kind == tuning.resized(old.index.kind, 1_500, 800, 16) == "IVF128,SQ8"
    assert new.index.recall >= 0.9
    assert set(new.index.queries) == {"images", "texts"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w, c: w.add_images(c.images[5:6], c.image_vectors[5:6]), "there twice"),
        (lambda w, c: w.remove_images([0]), "does not exist"),
        (lambda w, c: w.remove_images(range(300)), "no pictures"),
        (lambda w, c: w.remove_images([300]), "300"),
        (lambda w, c: w.add_images(pa.record_batch({"id": ["n"], "uri": ["u"], "width": [[1]]}), c.image_vectors[:1]), "width"),
    ],
    ids=["an id twice", "a caption of nothing", "all gone", "out of range", "types that do not go together"],
)  # fmt: skip
def test_a_bad_change_leaves_the_base(
    directory: IndexDirectory, publish: Callable[..., str], corpus: Any, change: Callable[..., None], said: str
) -> None:
    name = publish(corpus)
    base = directory.open()

    def attempt() -> None:
        with SnapshotWriter(directory, model=base.manifest.model, source="x", base=base) as writer:
            change(writer, corpus)
            writer.publish()

    with pytest.raises((ValueError, IndexError), match=said):
        attempt()
    assert directory.current() == name
    assert [path.name for path in directory.snapshots.iterdir()] == [name]
    assert directory.open().verify() == []
