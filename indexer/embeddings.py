"""Embeddings that lie in files: vectors in .npy or in a Parquet column, what is known of their pictures beside them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel

from corpus import SourceError
from vector_index import ModelStamp

MARK = b"crossmodal"  # key in a Parquet file's metadata, under which an export tells where it comes from
VECTOR = "vector"
_BATCH = 2048  # rows
_EXPECTED = (
    "expected img_emb/img_emb_0.npy and metadata/metadata_0.parquet, or pairs X.npy and X.parquet, or images.parquet "
    "with a column `vector`"
)


@dataclass(frozen=True)
class Shard:
    """Rows of a Parquet table. Their vectors lie in an .npy of as many rows, or, without one, in the column `vector`.

    `captions`, an .npy too, has the vectors of their first captions.
    """

    table: Path
    rows: int
    schema: pa.Schema
    vectors: Path | None = None
    captions: Path | None = None


class Mark(BaseModel):
    """What an export says of itself: the index' source and model, and the columns `added` to those of its pictures."""

    source: str
    model: ModelStamp
    added: list[str]


@dataclass(frozen=True)
class Embeddings:
    """All that a folder has. `texts` are captions with a vector each; `mark` is there where it was exported."""

    shards: list[Shard]
    texts: Shard | None
    mark: Mark | None


class Vectors(NamedTuple):
    """Vectors of unit length, float32 (n, dim), and what is wrong with those that are of no use, by row."""

    unit: NDArray[np.float32]
    wrong: dict[int, str]


class Rows(NamedTuple):
    """Some rows of a shard, the first of number `start`; `captions` are the vectors of their first captions."""

    table: pa.RecordBatch
    start: int
    vectors: Vectors
    captions: Vectors | None


def find_embeddings(folder: Path, dim: int) -> Embeddings:
    """What embeddings there are in a folder, in the numeric order of the shards' names. Reads headers, no rows.

    Raises SourceError: none, one without its table (or a table without its vectors), files of different rows, vectors
    of another dim or of no float type, pickled ones, a file that cannot be read. The message names the file.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: there is no such folder")
    texts = None
    if (folder / "img_emb").is_dir():
        shards = _clip_retrieval(folder)
    elif any(folder.glob("*.npy")):
        shards = _pairs(_by_name(folder, "*.npy"), _by_name(folder, "*.parquet"), folder)
    elif (folder / "images.parquet").is_file():
        shards = [_shard(folder / "images.parquet")]
        if (folder / "texts.parquet").is_file():
            texts = _shard(folder / "texts.parquet")
            _need(texts, "text")
    else:
        raise SourceError(f"{folder}: there are no embeddings here; {_EXPECTED}")
    for shard in [*shards, *([texts] if texts else [])]:
        _check(shard, dim)
    try:
        mark = Mark.model_validate_json((shards[0].schema.metadata or {}).get(MARK, b""))
    except ValueError:
        mark = None
    return Embeddings(shards, texts, mark)


def read_rows(shard: Shard, dim: int, skip: Collection[str] = ()) -> Iterator[Rows]:
    """The rows of a shard, some at a time, without their column `vector` and those to `skip`.

    Raises SourceError: the file, which it names, cannot be read, or all its vectors have another dim.
    """
    matrix = _open_npy(shard.vectors) if shard.vectors else None
    captions = _open_npy(shard.captions) if shard.captions else None
    start = 0
    with named(shard.table), pq.ParquetFile(shard.table, memory_map=True) as file:
        wanted = [name for name in shard.schema.names if name not in skip] if skip else None
        for batch in file.iter_batches(_BATCH, columns=wanted):
            stop = start + batch.num_rows
            if matrix is None:
                vectors = _of_column(batch.column(VECTOR), dim, shard.table)
                batch = batch.drop_columns([VECTOR])
            else:
                vectors = _unit(matrix[start:stop])
            yield Rows(batch, start, vectors, None if captions is None else _unit(captions[start:stop]))
            start = stop


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Errors of the libraries become one that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        raise SourceError(f"{path}: {error}") from None


def _clip_retrieval(folder: Path) -> list[Shard]:
    vectors = _by_name(folder / "img_emb", "img_emb_*.npy")
    captions = _by_name(folder / "text_emb", "text_emb_*.npy")
    shards = _pairs(vectors, _by_name(folder / "metadata", "metadata_*.parquet"), folder)
    if captions and captions.keys() != vectors.keys():
        number = next(iter(captions.keys() ^ vectors.keys()))
        have, lack = ("img_emb", "text_emb") if number in vectors else ("text_emb", "img_emb")
        raise SourceError(f"{folder / have / f'{have}_{number}.npy'} has no {lack}/{lack}_{number}.npy")
    return [
        Shard(shard.table, shard.rows, shard.schema, shard.vectors, captions.get(name))
        for name, shard in zip(vectors, shards, strict=True)
    ]


def _by_name(folder: Path, pattern: str) -> dict[str, Path]:
    """What differs in the names of the files of this pattern -> the files, 2 before 10."""
    before, after = pattern.split("*")
    found = {path.name[len(before) : -len(after)]: path for path in folder.glob(pattern)}

    def order(name: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]

    return {name: found[name] for name in sorted(found, key=order)}


def _pairs(vectors: dict[str, Path], tables: dict[str, Path], folder: Path) -> list[Shard]:
    if not vectors and not tables:
        raise SourceError(f"{folder}: there are no embeddings here; {_EXPECTED}")
    for name, path in vectors.items():
        if name not in tables:
            raise SourceError(f"{path} has no Parquet table of its pictures beside it")
    for name, path in tables.items():
        if name not in vectors:
            raise SourceError(f"{path} has no .npy with its vectors beside it")
    return [_shard(tables[name], path) for name, path in vectors.items()]


def _shard(table: Path, vectors: Path | None = None) -> Shard:
    with named(table), pq.ParquetFile(table) as file:
        rows, schema = file.metadata.num_rows, file.schema_arrow
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise SourceError(f"{table}: there are two columns {name!r}")
    return Shard(table, rows, schema, vectors)


def _need(shard: Shard, column: str) -> None:
    if column not in shard.schema.names:
        raise SourceError(f"{shard.table}: there is no column `{column}`; there are {', '.join(shard.schema.names)}")


def _check(shard: Shard, dim: int) -> None:
    """Raises SourceError for what can be said without reading the rows."""
    for path in (shard.vectors, shard.captions):
        if path is not None:
            matrix = _open_npy(path)
            if matrix.shape[1] != dim:
                raise SourceError(f"{path}: vectors of dim {matrix.shape[1]}; the model's have {dim}")
            if len(matrix) != shard.rows:
                raise SourceError(f"{path}: {len(matrix):,} rows, {shard.rows:,} in {shard.table}")
    if shard.vectors is None:
        _need(shard, VECTOR)
        kind = shard.schema.field(VECTOR).type
        is_fixed = pa.types.is_fixed_size_list(kind)
        is_list = is_fixed or pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if not (is_list and pa.types.is_floating(kind.value_type)):
            raise SourceError(f"{shard.table}: the column `{VECTOR}` is {kind}, not a list of floats")
        if is_fixed and kind.list_size != dim:
            raise SourceError(f"{shard.table}: vectors of dim {kind.list_size}; the model's have {dim}")


def _open_npy(path: Path) -> NDArray[np.floating[Any]]:
    try:
        matrix: NDArray[np.floating[Any]] = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        if "Python objects" in str(error):
            raise SourceError(f"{path}: pickled objects are not read (allow_pickle=False); save floats") from None
        raise SourceError(f"{path}: not readable as .npy: {error}") from None
    if matrix.ndim != 2 or matrix.dtype not in (np.float16, np.float32, np.float64):
        raise SourceError(f"{path}: {matrix.dtype} of shape {matrix.shape}, not float16, 32 or 64 of shape (n, dim)")
    return matrix


def _of_column(column: Any, dim: int, path: Path) -> Vectors:
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    fits = lengths == dim
    given = set(lengths[lengths >= 0].tolist())
    if len(given) == 1 and not fits.any():
        raise SourceError(f"{path}: vectors of dim {given.pop()}; the model's have {dim}")
    flat = column.filter(pa.array(fits)).flatten().cast(pa.float64()).to_numpy(zero_copy_only=False)
    raw = np.zeros((len(column), dim))
    raw[fits] = flat.reshape(-1, dim)
    unit, wrong = _unit(raw)
    for row in np.flatnonzero(~fits).tolist():
        has = lengths[row]
        wrong[row] = "there is no vector" if has < 0 else f"the vector has dim {has}; the model's have {dim}"
    return Vectors(unit, wrong)


def _unit(raw: NDArray[np.floating[Any]]) -> Vectors:
    vectors = raw.astype(np.float64)  # a square of float32 may be too large for itself
    finite = np.asarray(np.isfinite(vectors).all(axis=1))
    vectors[~finite] = 0
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    good = np.asarray((norms > 0) & np.isfinite(norms))
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=good).astype(np.float32)
    wrong = {
        row: "the vector has length 0" if finite[row] else "the vector has NaN or infinity in it"
        for row in np.flatnonzero(~good).tolist()
    }
    return Vectors(unit, wrong)
