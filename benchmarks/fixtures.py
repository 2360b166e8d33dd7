"""What every benchmark loads: an index of clustered vectors, texts as long as captions, JPEGs as large as photos."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from vector_index import IndexDirectory, ModelStamp, SnapshotWriter

DIM = 512
_CLUSTERS = 1000
_CHUNK = 20_000


def clustered(count: int, dim: int = DIM, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors around 1,000 centres, float32 (count, dim): nearer to embeddings than pure noise."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((_CLUSTERS, dim), dtype=np.float32)
    vectors = centres[rng.integers(0, _CLUSTERS, count)] + 0.7 * rng.standard_normal((count, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def make_index(out: Path, model: Path, count: int = 100_000, *, seed: int = 0, index_type: str = "auto") -> Path:
    """Publish `count` rows of metadata and vectors as an index of `model`, an exported model; kept if it is there."""
    if (out / "CURRENT").is_file():
        return out
    facts = json.loads((model / "model.json").read_text("utf-8"))
    stamp = ModelStamp(reference=str(model), fingerprint=facts["fingerprint"], dim=facts["dim"])
    vectors = clustered(count, facts["dim"], seed)
    words = captions(count, seed)
    directory = IndexDirectory(out)
    with directory.lock(), SnapshotWriter(directory, model=stamp, source=str(out), index_type=index_type) as writer:
        for start in range(0, count, _CHUNK):
            rows = range(start, min(start + _CHUNK, count))
            ids = [f"{row:016x}" for row in rows]
            columns = {
                "id": pa.array(ids),
                "uri": pa.array([f"images/{row // 1000:04d}/{row:08d}.jpg" for row in rows]),
                "duplicate_uris": pa.array([[] for _ in rows], pa.list_(pa.string())),
                "width": pa.array([640 for _ in rows], pa.int32()),
                "height": pa.array([480 for _ in rows], pa.int32()),
                "sha256": pa.array([f"{row:064x}" for row in rows]),
                "captions": pa.array([[words[row]] for row in rows], pa.list_(pa.string())),
                "offset": pa.nulls(len(rows), pa.int64()),
                "length": pa.nulls(len(rows), pa.int64()),
                "photographer": pa.array([f"person {row % 977}" for row in rows]),
                "year": pa.array([1990 + row % 35 for row in rows], pa.int64()),
                "licence": pa.array([("CC0", "CC-BY", "CC-BY-SA")[row % 3] for row in rows]),
            }
            writer.add_images(pa.record_batch(columns), vectors[start : rows.stop])
            texts = pa.record_batch({
                "id": pa.array([f"t{row:015x}" for row in rows]),
                "text": pa.array([words[row] for row in rows]),
                "image_ids": pa.array([[each] for each in ids], pa.list_(pa.string())),
            })  # fmt: skip
            writer.add_texts(texts, vectors[start : rows.stop])
        writer.publish()
    return out


def captions(count: int, seed: int = 0) -> list[str]:
    """Distinct texts; their words are log-normal in number (median 10, as in COCO's captions) and Zipfian in kind."""
    rng = np.random.default_rng([seed, 1])
    lengths = np.clip(np.rint(rng.lognormal(np.log(10), 0.35, count)), 2, 60).astype(int)
    odds = 1 / np.arange(1, len(_WORDS) + 1)
    texts: dict[str, None] = {}
    for length in lengths:
        words = rng.choice(_WORDS, length, p=odds / odds.sum()).tolist()
        while (text := " ".join(words)) in texts:
            words.append(str(rng.choice(_WORDS)))
        texts[text] = None
    return list(texts)


def any_length(count: int, seed: int = 0, most: int = 90) -> list[str]:
    """Distinct texts whose number of words is log-uniform from 1 to `most`; the longest are more than a model reads."""
    rng = np.random.default_rng([seed, 3])
    lengths = np.exp(rng.uniform(0, np.log(most + 1), count)).astype(int)
    texts: dict[str, None] = {}
    for number, length in enumerate(lengths):
        text = " ".join(rng.choice(_WORDS, length).tolist())
        texts[text if text not in texts else f"{text} {number}"] = None
    return list(texts)


def jpegs(count: int, megapixels: float, seed: int = 0) -> list[bytes]:
    """Distinct 4:3 JPEGs, quality 90, with the fine detail and so the size in bytes of photographs."""
    rng = np.random.default_rng([seed, 2])
    width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
    height = round(width * 3 / 4)
    files = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height))
        grain = rng.normal(0, 6, (height, width, 1)).astype(np.int16)
        picture = np.clip(np.asarray(coarse, dtype=np.int16) + grain, 0, 255).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(picture).save(out, "JPEG", quality=90)
        files.append(out.getvalue())
    return files


def marked(files: Sequence[bytes], count: int) -> list[bytes]:
    """`count` JPEGs, no two alike in bytes: the given ones over and over, each with a comment that changes no pixel."""
    comments = (f"number {number:08d}".encode() for number in range(count))
    return [
        file[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + file[2:]
        for file, comment in zip(cycle(files), comments, strict=False)
    ]


_WORDS = (  # noqa: SIM905
    "a the of in on with and two man woman dog cat sitting standing next to red blue white black green large small "
    "street table people group young child holding playing riding train bus car horse beach snow water grass field "
    "kitchen room bed plate food pizza cake fruit bottle glass phone laptop book clock sign tree mountain river bridge "
    "building tower window door wall fence road bicycle motorcycle boat airplane kite ball bat racket skateboard "
    "umbrella hat shirt jacket smiling looking walking running flying jumping eating drinking reading wooden metal "
    "bright dark old new colourful empty crowded near behind under above front background sunset morning night city "
    "village park garden market station airport harbour stadium museum church castle lighthouse waterfall desert "
    "photographer musician skateboarder firefighter giraffe elephant zebra refrigerator microwave broccoli frisbee"
).split()
