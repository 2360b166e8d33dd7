"""Rows of a snapshot -> what the API says of them. All rows of an answer are fetched in one columnar take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
from numpy.typing import NDArray

from service.schemas import ImageItem
from vector_index.store import Snapshot

# Scores float32 (k,) and rows int64 (k,), best first, and the rank of the first.
Page = tuple[NDArray[np.float32], NDArray[np.int64], int]

# What the indexer writes of every picture; any further column is the corpus' own metadata.
_OWN = ("id", "uri", "duplicate_uris", "width", "height", "sha256", "captions", "offset", "length")


def metadata_columns(snapshot: Snapshot) -> list[str]:
    return [name for name in snapshot.images.schema.names if name not in _OWN]


def hits_json(snapshot: Snapshot, target: str, pages: Sequence[Page], include: Sequence[str]) -> list[bytes]:
    """Each page as a JSON array of what schemas.Hit describes; what is empty is left out."""
    collection = snapshot.images if target == "images" else snapshot.texts
    rows = np.concatenate([page[1] for page in pages]) if pages else np.empty(0, np.int64)
    extra: list[str] = []
    if target == "texts":
        columns = ["id", "text", "image_ids"]
    else:
        extra = metadata_columns(snapshot) if "metadata" in include else []
        columns = ["id", "uri", *(["captions"] if "captions" in include else []), *extra]
    table = collection.take(rows, columns).to_pydict()
    own = [name for name in columns if name not in extra]
    thumbnails = target == "images" and snapshot.has_thumbnails
    vectors = collection.vectors(rows) if "vector" in include else None

    answers = []
    start = 0
    for scores, page_rows, first_rank in pages:
        stop = start + len(page_rows)
        hits: list[dict[str, Any]] = [
            {"id": id, "score": score, "rank": rank}
            for rank, (id, score) in enumerate(zip(table["id"][start:stop], scores.tolist(), strict=True), first_rank)
        ]
        if thumbnails:
            for hit in hits:
                hit["thumbnail_url"] = thumbnail_url(hit["id"])
        for name in own[1:]:
            for hit, value in zip(hits, table[name][start:stop], strict=True):
                if value is not None:
                    hit[name] = value
        if "metadata" in include and target == "images":
            values = zip(*(table[name][start:stop] for name in extra), strict=True) if extra else ((),) * len(hits)
            for hit, row in zip(hits, values, strict=True):
                hit["metadata"] = {name: value for name, value in zip(extra, row, strict=True) if value is not None}
        if vectors is not None:
            for hit, vector in zip(hits, vectors[start:stop], strict=True):
                hit["vector"] = orjson.Fragment(dumps(vector))  # or nothing else runs until all are written
        answers.append(dumps(hits))
        start = stop
    return answers


def dumps(value: Any) -> bytes:
    """JSON, UTF-8; NumPy arrays are written as lists, what JSON has no word for (decimals, durations) as text."""
    return orjson.dumps(value, default=_text, option=orjson.OPT_SERIALIZE_NUMPY)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def image_item(snapshot: Snapshot, row: int) -> ImageItem:
    """Everything known of one picture."""
    values: dict[str, Any] = {name: column[0] for name, column in snapshot.images.take([row]).to_pydict().items()}
    id = values["id"]
    return ImageItem(
        id=id,
        uri=values["uri"],
        duplicate_uris=values["duplicate_uris"] or [],
        width=values["width"],
        height=values["height"],
        sha256=values["sha256"],
        captions=values["captions"] or [],
        thumbnail_url=thumbnail_url(id) if snapshot.has_thumbnails else None,
        content_url=f"/v1/images/{quote(id, safe='')}/content",
        metadata={name: values[name] for name in metadata_columns(snapshot)},
    )


def thumbnail_url(id: str) -> str:
    return f"/v1/images/{quote(id, safe='')}/thumbnail"
