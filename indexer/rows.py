"""What a build knows of a record, a row of a part: read without an encoder, chosen for encoding by the ledger."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corpus import Record
from dual_encoder.image import DecodedImage, ImageError, open_image
from indexer.ledger import Ledger
from indexer.thumbnail import SIDE, thumbnail

MAX_CAPTION = 10_000  # characters
UNREADABLE = "cannot be read: "

Row = dict[str, Any]
T = TypeVar("T")
Read: TypeAlias = tuple[Row, T | None, bytes | None]  # a row, the picture for the encoder, its thumbnail


def read_row(
    record: Record,
    size: tuple[int, int],
    prepare: Callable[[Image.Image], T],
    thumbnails: bool,
    compute: Callable[[Callable[[], Read[T]]], Read[T]] = lambda work: work(),
    decode: Callable[[bytes], tuple[DecodedImage, T] | None] = lambda _: None,
) -> Read[T]:
    """Everything about a record that needs no encoder: its row, what `prepare` makes of the picture, its thumbnail.

    `size` is (height, width) in px of what the model sees. A row with a `reject` has neither. Runs on any thread, and
    has `compute` call what computes, all but waiting for the file. What `decode` gives of a file, perhaps nothing, is
    taken instead of decoding and preparing it here.
    """
    good = [text for text in record.captions if len(text) <= MAX_CAPTION]
    row: Row = {
        "uri": record.uri, "stamp": stamp(record), "reject": None, "sha256": None, "id": record.id,
        "width": None, "height": None, "captions": list(dict.fromkeys(good)),
        "caption_rejects": [f"a caption has {len(t):,} characters, more than {MAX_CAPTION:,}"
                            for t in record.captions if len(t) > MAX_CAPTION],
        "metadata": json.dumps(record.metadata, default=str), "offset": record.offset,
        "length": record.length, "thumbnail": None, "vector": None, "text_vectors": [], "new_texts": [],
    }  # fmt: skip
    try:
        data = record.read()
        found = decode(data)

        def work() -> Read[T]:
            decoded = found[0] if found else open_image(data, side_of(size))
            row.update(sha256=hashlib.sha256(data).hexdigest(), width=decoded.width, height=decoded.height)
            small = thumbnail(decoded.image) if thumbnails else None
            return row, found[1] if found else prepare(decoded.image), small

        return compute(work)
    except OSError as error:
        row["reject"] = f"{UNREADABLE}{error.strerror or error}"
    except MemoryError:
        row["reject"] = "the picture does not fit into memory"
    except (ImageError, ValueError) as error:
        row["reject"] = str(error)
    return row, None, None


def side_of(size: tuple[int, int]) -> int:
    """The side (px) that decoding at a reduced scale is to leave: of what a model sees, and of a thumbnail."""
    return max(*size, SIDE // 2)


class Choice:
    """Which pictures of one part are to be encoded. Ask of every row, in order: what came first decides."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._fresh: set[bytes] = set()
        self._taken: set[str] = set()  # of the corpus' own ids

    def takes(self, row: Row) -> bool:
        """Whether it is good and new; one that has another picture's id is rejected here."""
        if row["reject"] is not None:
            return False
        digest = bytes.fromhex(row["sha256"])
        if digest in self._fresh or self._ledger.has_picture(digest):
            return False
        if row["id"] is not None:
            if row["id"] in self._taken or self._ledger.has_id(row["id"]):
                row["reject"] = f"id {row['id']!r} belongs to another picture already"
                return False
            self._taken.add(row["id"])
        self._fresh.add(digest)
        return True


def new_texts(rows: list[Row], ledger: Ledger) -> dict[str, int]:
    """The captions of a part that no earlier one has -> the row that has it first. Ask after `Choice`."""
    fresh: dict[str, int] = {}
    for number, row in enumerate(rows):
        if row["reject"] is None:
            for text in row["captions"]:
                if text not in fresh and not ledger.has_text(text):
                    fresh[text] = number
    return fresh


def add_texts(rows: list[Row], fresh: dict[str, int], vectors: Iterable[NDArray[np.float32]]) -> None:
    for (text, number), vector in zip(fresh.items(), vectors, strict=True):
        rows[number]["new_texts"].append(text)
        rows[number]["text_vectors"].append(pack(vector))


def pack(vector: NDArray[np.float32]) -> bytes:
    """float32 (dim,), as the parts hold it."""
    return vector.astype(np.float32).tobytes()


def stamp(record: Record) -> str:
    """Changes with the file and with all that a table says of it: a caption edited since is encoded anew."""
    said = json.dumps([record.id, record.captions, record.metadata, record.offset, record.length], default=str)
    return f"{record.stamp} {hashlib.sha256(said.encode()).hexdigest()[:16]}"
