"""Rows of a snapshot -> what the API says of them. All rows of an answer are fetched in one columnar take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from service.schemas import Hit, ImageItem
from vector_index import Snapshot

# What the indexer writes of every picture; any further column is the corpus' own metadata.
_OWN = ("id", "uri", "duplicate_uris", "width", "height", "sha256", "captions", "offset", "length")


def metadata_columns(snapshot: Snapshot) -> list[str]:
    return [name for name in snapshot.images.schema.names if name not in _OWN]


def image_hits(
    snapshot: Snapshot,
    scores: NDArray[np.float32],
    rows: NDArray[np.int64],
    include: Sequence[str],
    first_rank: int,
) -> list[Hit]:
    """`scores` float32 (k,) and `rows` int64 (k,) of `snapshot.images`, best first."""
    extra = metadata_columns(snapshot) if "metadata" in include else []
    columns = ["id", "uri", *(["captions"] if "captions" in include else []), *extra]
    table = snapshot.images.take(rows, columns).to_pydict()
    vectors = snapshot.images.vectors(rows).tolist() if "vector" in include else None
    ids = table["id"]
    thumbnails = _has_thumbnails(snapshot)
    return [
        Hit.model_construct(
            id=ids[i],
            score=float(scores[i]),
            rank=first_rank + i,
            uri=table["uri"][i],
            thumbnail_url=thumbnail_url(ids[i]) if thumbnails else None,
            text=None,
            image_ids=None,
            captions=table["captions"][i] if "captions" in include else None,
            metadata={name: table[name][i] for name in extra} if "metadata" in include else None,
            vector=vectors[i] if vectors else None,
        )
        for i in range(len(rows))
    ]


def text_hits(
    snapshot: Snapshot,
    scores: NDArray[np.float32],
    rows: NDArray[np.int64],
    include: Sequence[str],
    first_rank: int,
) -> list[Hit]:
    """The same for rows of `snapshot.texts`."""
    table = snapshot.texts.take(rows, ["id", "text", "image_ids"]).to_pydict()
    vectors = snapshot.texts.vectors(rows).tolist() if "vector" in include else None
    return [
        Hit.model_construct(
            id=table["id"][i],
            score=float(scores[i]),
            rank=first_rank + i,
            uri=None,
            thumbnail_url=None,
            text=table["text"][i],
            image_ids=table["image_ids"][i],
            captions=None,
            metadata=None,
            vector=vectors[i] if vectors else None,
        )
        for i in range(len(rows))
    ]


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
        thumbnail_url=thumbnail_url(id) if _has_thumbnails(snapshot) else None,
        content_url=f"/v1/images/{quote(id, safe='')}/content",
        metadata={name: values[name] for name in metadata_columns(snapshot)},
    )


def thumbnail_url(id: str) -> str:
    return f"/v1/images/{quote(id, safe='')}/thumbnail"


def _has_thumbnails(snapshot: Snapshot) -> bool:
    return "thumbnails.arrow" in snapshot.manifest.files
