"""A snapshot to publish, and stores in Milvus Lite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vector_index import IndexDirectory, ModelStamp, SnapshotWriter
from vector_index.milvus import MilvusStore

DIM = 16
Write = Callable[..., str]


@pytest.fixture
def directory(tmp_path: Path) -> IndexDirectory:
    return IndexDirectory(tmp_path / "index")


@pytest.fixture
def write(directory: IndexDirectory) -> Write:
    """Publish `count` pictures, or those of a batch, in the index directory."""

    def run(count: int = 5, batch: pa.RecordBatch | None = None, seed: int = 0, texts: int = 0) -> str:
        model = ModelStamp(reference="tiny", fingerprint="f00d", dim=DIM)
        if batch is None:
            batch = pa.record_batch({"id": [f"i{n}" for n in range(count)], "uri": ["x.jpg"] * count})
        vectors: Any = np.random.default_rng(seed).standard_normal((batch.num_rows, DIM))
        with SnapshotWriter(directory, model=model, source="here") as writer:
            writer.add_images(batch, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
            if texts:
                ids = [f"t{n}" for n in range(texts)]
                captions = pa.record_batch({"id": ids, "text": ids, "image_ids": [["i0"]] * texts})
                writer.add_texts(captions, np.eye(texts, DIM, dtype=np.float32))
            return writer.publish()

    return run


@pytest.fixture(scope="session")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lite") / "x.db"


@pytest.fixture
def store(lite: Path, request: pytest.FixtureRequest) -> Iterator[MilvusStore]:
    """A name of its own in a file for all."""
    name = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
    store = MilvusStore(f"milvus+file://{lite}/{name}", timeout=30)
    yield store
    store.close()
