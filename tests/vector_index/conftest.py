"""Small corpora and the snapshots made of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from vector_index import IndexDirectory, ModelStamp, SnapshotWriter

DIM = 16


class Corpus:
    """Pictures, two captions for every third of them, and the vectors of both."""

    def __init__(self, n: int, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.image_ids = [f"img-{i:05}" for i in generator.permutation(n)]
        self.image_vectors = unit(generator, n)
        self.text_vectors = unit(generator, 2 * len(self.image_ids[::3]))
        self.thumbnails = [None if i % 5 == 0 else f"webp {i}".encode() for i in range(n)]

    @property
    def images(self) -> pa.RecordBatch:
        n = len(self.image_ids)
        return pa.record_batch({"id": self.image_ids, "uri": [f"{i}.jpg" for i in range(n)], "width": list(range(n))})

    @property
    def texts(self) -> pa.RecordBatch:
        named = [id for id in self.image_ids[::3] for _ in range(2)]
        n = len(named)
        columns = {"id": [f"t{i}" for i in range(n)], "text": ["雨"] * n, "image_ids": [[id] for id in named]}
        return pa.record_batch(columns)


def unit(generator: np.random.Generator, n: int, dim: int = DIM) -> npt.NDArray[np.float32]:
    vectors = generator.standard_normal((n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def directory(tmp_path: Path) -> IndexDirectory:
    return IndexDirectory(tmp_path / "index")


@pytest.fixture
def writer(directory: IndexDirectory) -> Callable[..., SnapshotWriter]:
    """Start a writer on `directory`."""

    def start(**options: Any) -> SnapshotWriter:
        model = ModelStamp(reference="tiny", fingerprint="f00d", dim=DIM)
        return SnapshotWriter(directory, model=model, source="pictures/", **options)

    return start


@pytest.fixture
def publish(writer: Callable[..., SnapshotWriter]) -> Callable[..., str]:
    """Publish a corpus, or its pictures alone, in `directory` and return the snapshot's name."""

    def run(corpus: Corpus, *, texts: bool = True, **options: Any) -> str:
        with writer(**options) as started:
            started.add_images(corpus.images, corpus.image_vectors, corpus.thumbnails)
            if texts:
                started.add_texts(corpus.texts, corpus.text_vectors)
            started.add_reject("broken.jpg", "not a picture")
            return started.publish()

    return run


@pytest.fixture
def corpus() -> Corpus:
    return Corpus(300)


@pytest.fixture
def make_corpus() -> type[Corpus]:
    return Corpus
