"""Image–caption pairs for training and evaluation, read in an order that a seed fixes.

They come as a table (JSON lines with `image` and `caption`) or as what `crossmodal data prepare` writes: shards, with a
memory-mapped table that says where in them each picture lies.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from corpus.records import as_utf8
from dual_encoder.errors import ImageError
from dual_encoder.image import open_image

if TYPE_CHECKING:
    from PIL import Image

    from dual_encoder.preprocess import Preprocess

_Row = TypeVar("_Row")
_FIELDS: list[tuple[str, Any]] = [
    ("file", pa.string()),
    ("offset", pa.int64()),
    ("length", pa.int64()),
    ("captions", pa.list_(pa.string())),
    ("languages", pa.list_(pa.string())),
    ("negatives", pa.list_(pa.string())),
    ("group", pa.string()),
    ("metadata", pa.string()),
]
_SCHEMA = pa.schema(_FIELDS)


class DataError(Exception):
    """Pairs that cannot be used; the message names the file and the row."""


@dataclass(frozen=True)
class Pair:
    """A picture and everything said of it; `languages` runs beside `captions`.

    `image` is a file of its own, or a shard in which the picture lies at `offset`, `length` bytes long. `negatives`
    are captions that are false of it though nearly true. Pairs of one `group` show the same picture. `metadata` is
    whatever else the table says.
    """

    image: Path
    captions: tuple[str, ...]
    languages: tuple[str, ...]
    offset: int | None = None
    length: int | None = None
    negatives: tuple[str, ...] = ()
    group: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    def read(self) -> bytes:
        """The picture's file. Raises DataError naming it."""
        try:
            with self.image.open("rb") as file:
                file.seek(self.offset or 0)
                data = file.read(-1 if self.length is None else self.length)
        except OSError as error:
            raise DataError(f"{self.image}: {error.strerror}") from None
        if self.length is not None and len(data) < self.length:
            raise DataError(f"{self.image}: the shard is cut short")
        return data


class Pairs(Sequence[Pair]):
    """Pairs that stay in Arrow memory, or in a memory-mapped file, until they are looked at."""

    def __init__(self, table: pa.Table, root: Path, split: str | None = None) -> None:
        """`split` of a prepared folder `root`, which another process maps anew instead of being sent a copy."""
        self._table, self._root, self._split = table, root, split

    def __reduce__(self) -> tuple[Any, ...]:
        if self._split is None:
            return Pairs, (self._table, self._root)
        return read_pairs, (self._root, self._split)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, at: int) -> Pair: ...
    @overload
    def __getitem__(self, at: slice) -> list[Pair]: ...
    def __getitem__(self, at: int | slice) -> Pair | list[Pair]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        row = self._table.slice(at % len(self), 1).to_pylist()[0]
        return Pair(
            self._root / row["file"], tuple(row["captions"]), tuple(row["languages"]), row["offset"], row["length"],
            tuple(row["negatives"] or ()), row["group"] or "", json.loads(row["metadata"] or "{}"),
        )  # fmt: skip


def read_pairs(data: Path, split: str = "train") -> Pairs:
    """Read a JSON-lines table, the `captions.jsonl` of a folder, or one split of a prepared folder.

    Raises DataError naming the file and the row. The split matters to a prepared folder only.
    """
    if (data / "manifest.json").is_file():
        return _read_prepared(data, split)
    table = data / "captions.jsonl" if data.is_dir() else data
    if not table.is_file():
        raise DataError(f"{table}: no such table of pairs")
    rows = pa.Table.from_batches(_read_rows(table), _SCHEMA)
    if rows.num_rows == 0:
        raise DataError(f"{table}: no pairs in it")
    return Pairs(rows.combine_chunks(), table.parent)


def _read_rows(table: Path, chunk: int = 4096) -> Iterator[pa.RecordBatch]:
    rows: list[dict[str, Any]] = []
    for row in json_rows(table, _row):
        rows.append(row)
        if len(rows) == chunk:
            yield pa.RecordBatch.from_pylist(rows, _SCHEMA)
            rows = []
    yield pa.RecordBatch.from_pylist(rows, _SCHEMA)


def json_rows(table: Path, read: Callable[[dict[str, Any]], _Row]) -> Iterator[_Row]:
    """What `read` makes of each line that is not blank. Raises DataError, naming the row that is wrong."""
    try:
        with table.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    if line.strip():
                        yield read(_object(line))
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    reason = f"no column {error}" if isinstance(error, KeyError) else str(error)
                    raise DataError(f"{table}, row {number}: {reason}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: {error}") from None


def _object(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON ({error}); pairs are read from JSON lines") from None
    if not isinstance(row, dict):
        raise ValueError("not an object")
    return row


def _row(row: dict[str, Any]) -> dict[str, Any]:
    image, captions, languages = row.pop("image"), row.pop("caption"), row.pop("language", None) or ""
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(image, str) or not image:
        raise ValueError("image is not a path")
    if not isinstance(captions, list) or not captions or not all(isinstance(c, str) for c in captions):
        raise ValueError("caption is not a string or a list of strings")
    languages = [languages] * len(captions) if isinstance(languages, str) else languages
    is_list = isinstance(languages, list) and all(isinstance(language, str | None) for language in languages)
    if not is_list or len(languages) != len(captions):
        raise ValueError(f"language is not a string or a list of {len(captions)} strings, one a caption")
    negatives = row.pop("negatives", None) or []
    if not isinstance(negatives, list) or not all(isinstance(text, str) for text in negatives):
        raise ValueError("negatives is not a list of strings")
    group = row.pop("group", None)
    return {
        "file": image, "captions": list(map(as_utf8, captions)), "negatives": list(map(as_utf8, negatives)),
        "languages": [as_utf8(language or "") for language in languages],
        "metadata": as_utf8(json.dumps(row, ensure_ascii=False)),
        "group": "" if group is None or group != group else str(group),
    }  # fmt: skip


def _read_prepared(data: Path, split: str) -> Pairs:
    try:
        manifest = json.loads((data / "manifest.json").read_text("utf-8"))
        kind, version, splits = manifest["format"], manifest["version"], manifest["splits"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{data}/manifest.json cannot be read: {error}") from None
    if (kind, version) != ("crossmodal-pairs", 1):
        raise DataError(f"{data}/manifest.json: format {kind} {version} is not known; prepare the data again")
    if split not in splits:
        raise DataError(f"{data}: there is no split {split!r}; it has {', '.join(splits)}")
    for shard in splits[split]["shards"]:
        path = data / shard["name"]
        size = path.stat().st_size if path.is_file() else None
        if size != shard["bytes"]:
            found = "is missing" if size is None else f"has {size:,} bytes instead of {shard['bytes']:,}"
            raise DataError(f"{path} {found}: prepare the data again")
    try:
        table = pa.ipc.open_file(pa.memory_map(str(data / f"{split}.arrow"))).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{data / f'{split}.arrow'}: {error}") from None
    columns = {name: "shard" if name == "file" else name for name in _SCHEMA.names}
    arrays = [
        table[column] if column in table.column_names else pa.nulls(table.num_rows, _SCHEMA.field(name).type)
        for name, column in columns.items()
    ]
    return Pairs(pa.table(arrays, names=list(columns)), data, split)


def batches(count: int, batch_size: int, seed: int, start: int = 0) -> Iterator[list[tuple[int, int]]]:
    """Endless batches of (pair, seed of its choices) from batch `start` on; an epoch's last few are left out.

    The same `seed` gives the same batches wherever they start, which is what lets a run resume exactly.
    """
    per_epoch = count // batch_size
    if per_epoch == 0:
        raise DataError(f"{count} pairs do not fill one batch of {batch_size}")
    step = start
    while True:
        epoch, first = divmod(step, per_epoch)
        order = np.random.default_rng((seed, epoch)).permutation(count)
        for i in range(first, per_epoch):
            yield [(int(p), hash((seed, epoch, int(p)))) for p in order[i * batch_size : (i + 1) * batch_size]]
            step += 1


@dataclass(frozen=True)
class Sample:
    """A picture as the model wants it, uint8 (H, W, 3), and the captions and negatives chosen for this step.

    `said` has an int64 digest of each of these texts, `known` of every caption of the picture, `group` of the picture:
    from these a batch finds captions that are true of more than one of its pictures.
    """

    pixels: NDArray[np.uint8]
    captions: list[str]
    negatives: list[str]
    said: list[int]
    known: list[int]
    group: int
    teacher_pixels: NDArray[np.float32] | None = None


class PairDataset:
    """A map-style dataset: (pair, seed) -> Sample.

    `crop` is the smallest share of a picture's area that a random crop keeps (1: none). Captions are chosen alike
    (`by_length` false), or a language first and then a caption in proportion to its length: a long one says more.
    Negatives are chosen alike, or (`reordered`) among those that have the letters of a caption in another order, if any
    have: what tells word order is soon learned from many of them, and hardly from few.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        preprocess: Preprocess,
        *,
        captions: int = 1,
        negatives: int = 0,
        by_length: bool = False,
        reordered: bool = False,
        crop: float = 1.0,
        teacher: Preprocess | None = None,
    ) -> None:
        self.pairs, self.preprocess, self.teacher, self.reordered = pairs, preprocess, teacher, reordered
        self.captions, self.negatives, self.by_length, self.crop = captions, negatives, by_length, crop

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        pair, rng = self.pairs[key[0]], random.Random(key[1])
        captions = [self._choose(pair, rng) for _ in range(self.captions)]
        # A pair that has no negative of its own fills its place with its caption, which nobody counts as false of it.
        negatives = [rng.choice(self._false_of(pair) or captions) for _ in range(self.negatives)]
        data = pair.read()
        side = max(min(self.preprocess.size), min(self.teacher.size) if self.teacher else 0)
        image = _open(pair, data, side)
        return Sample(
            pixels=np.asarray(self.preprocess.resize(self._crop(image, rng)), dtype=np.uint8),
            captions=captions,
            negatives=negatives,
            said=[_text_digest(text) for text in captions + negatives],
            known=[_text_digest(text) for text in pair.captions],
            group=_digest(pair.group.encode() or data),
            teacher_pixels=self.teacher(image) if self.teacher else None,
        )

    def _choose(self, pair: Pair, rng: random.Random) -> str:
        if not self.by_length:
            return rng.choice(pair.captions)
        language = rng.choice(sorted(set(pair.languages)))
        texts = [text for text, spoken in zip(pair.captions, pair.languages, strict=True) if spoken == language]
        return rng.choices(texts, [len(text) + 1 for text in texts])[0]

    def _false_of(self, pair: Pair) -> Sequence[str]:
        if not self.reordered:
            return pair.negatives
        letters = {"".join(sorted(text)) for text in pair.captions}
        return [text for text in pair.negatives if "".join(sorted(text)) in letters] or pair.negatives

    def _crop(self, image: Image.Image, rng: random.Random) -> Image.Image:
        if self.crop >= 1:
            return image
        side = rng.uniform(self.crop, 1) ** 0.5
        width, height = max(1, round(image.width * side)), max(1, round(image.height * side))
        left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
        return image.crop((left, top, left + width, top + height))


def _text_digest(text: str) -> int:
    return _digest(text.strip().casefold().encode("utf-8", "replace"))


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


def load_pixels(image: Pair | Path, preprocess: Preprocess) -> NDArray[np.uint8]:
    """A picture resized as the model wants it, uint8 (H, W, 3). Raises DataError naming the file."""
    pair = image if isinstance(image, Pair) else Pair(image, (), ())
    return np.asarray(preprocess.resize(_open(pair, pair.read(), min(preprocess.size))), dtype=np.uint8)


def _open(pair: Pair, data: bytes, side: int) -> Image.Image:
    try:
        return open_image(data, side).image
    except ImageError as error:
        raise DataError(f"{pair.image}{'' if pair.offset is None else f' at {pair.offset}'}: {error}") from None
