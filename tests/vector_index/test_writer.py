import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vector_index import BadIndexType, DimensionMismatch, IndexDirectory, SnapshotWriter

Start = Callable[..., SnapshotWriter]


def names(directory: IndexDirectory) -> set[str]:
    return {path.name for path in directory.snapshots.iterdir()}


def test_in_several_batches(directory: IndexDirectory, writer: Start, corpus: Any) -> None:
    with directory.lock(), writer() as started:
        for start in range(0, 300, 70):
            rows = slice(start, start + 70)
            thumbnails = corpus.thumbnails[rows] if start == 140 else None
            started.add_images(corpus.images[rows], corpus.image_vectors[rows], thumbnails)
        started.add_reject("坏.jpg", "not a picture")
        name = started.publish()
    assert names(directory) == {name}
    assert directory.current() == name
    with directory.open() as snapshot:
        assert snapshot.images.take(range(300)).equals(pa.Table.from_batches([corpus.images]))
        assert [snapshot.thumbnail(row) for row in (0, 141, 145, 299)] == [None, b"webp 141", None, None]
        assert len(snapshot.texts) == 0
        assert snapshot.texts.search(corpus.image_vectors[:2], 5)[1].shape == (2, 0)
        assert snapshot.manifest.rejects == 1
        assert snapshot.verify() == []
        [line] = (snapshot.path / "rejects.jsonl").read_text("utf-8").splitlines()
        assert json.loads(line) == {"uri": "坏.jpg", "reason": "not a picture"}


def test_no_thumbnails_no_file(directory: IndexDirectory, writer: Start, corpus: Any) -> None:
    with writer() as started:
        started.add_images(corpus.images, corpus.image_vectors, [None] * 300)
        started.publish()
    with directory.open() as snapshot:
        assert snapshot.thumbnail(0) is None
        assert "thumbnails.arrow" not in snapshot.manifest.files


def test_leaving_without_publishing_leaves_nothing(directory: IndexDirectory, writer: Start, corpus: Any) -> None:
    with writer() as started:
        started.add_images(corpus.images, corpus.image_vectors)
    assert names(directory) == set()
    with pytest.raises(ValueError, match="closed"):
        started.add_reject("a", "b")


def test_leftovers_of_a_dead_writer_are_removed(directory: IndexDirectory, writer: Start) -> None:
    dead = directory.snapshots / ".tmp-dead" / "snapshot"
    dead.mkdir(parents=True)
    with writer():
        assert not dead.parent.exists()


def test_crash_before_current_leaves_the_old_snapshot(
    directory: IndexDirectory,
    publish: Callable[..., str],
    corpus: Any,
    make_corpus: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = publish(corpus)

    def crash(*_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(OSError, match="power cut"):
            publish(make_corpus(30, seed=1))
    with directory.open() as snapshot:
        assert snapshot.name == old
        assert snapshot.verify() == []
    new = publish(make_corpus(30, seed=1))
    assert directory.current() == new != old


@pytest.mark.parametrize("value", [np.nan, np.inf, 9.0])
def test_bad_vectors_are_refused_and_nothing_is_added(
    directory: IndexDirectory, writer: Start, corpus: Any, value: float
) -> None:
    bad = corpus.image_vectors.copy()
    bad[17, 3] = value
    with writer() as started:
        with pytest.raises(ValueError, match="vector 17"):
            started.add_images(corpus.images, bad, corpus.thumbnails)
        started.add_images(corpus.images, corpus.image_vectors)
        started.publish()
    with directory.open() as snapshot:
        assert len(snapshot.images) == 300


def test_shapes_and_counts(writer: Start, corpus: Any) -> None:
    with writer() as started:
        with pytest.raises(DimensionMismatch):
            started.add_images(corpus.images, corpus.image_vectors[:, :8])
        with pytest.raises(ValueError, match="299 vectors for 300 rows"):
            started.add_images(corpus.images, corpus.image_vectors[1:])
        with pytest.raises(ValueError, match="1 thumbnails for 300 rows"):
            started.add_images(corpus.images, corpus.image_vectors, [b""])


def test_what_cannot_be_published(directory: IndexDirectory, writer: Start, corpus: Any) -> None:
    with writer() as started, pytest.raises(ValueError, match="no pictures"):
        started.publish()
    with writer() as started:
        started.add_images(corpus.images, corpus.image_vectors)
        last = corpus.image_ids.index(max(corpus.image_ids))
        started.add_images(corpus.images[last : last + 1], corpus.image_vectors[:1])
        with pytest.raises(ValueError, match=f"{max(corpus.image_ids)}.* twice"):
            started.publish()
    with writer() as started:
        started.add_images(corpus.images[1:], corpus.image_vectors[1:])
        started.add_texts(corpus.texts, corpus.text_vectors)
        with pytest.raises(ValueError, match="names image 'img-"):
            started.publish()
    assert names(directory) == set()
    assert directory.current() is None


def test_bad_options(writer: Start) -> None:
    with pytest.raises(BadIndexType):
        writer(index_type="IVF16,Flit")
    with pytest.raises(ValueError, match="target_recall"):
        writer(target_recall=95)
