"""A table with an `image` column: CSV, TSV, JSONL or Parquet, read as a stream."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from indexer.folder import file_record
from indexer.records import Record, Source, SourceError, as_utf8, captions_of

_FETCH_SECONDS = 20.0
_FETCH_BYTES = 50 * 2**20
_SPECIAL = ("image", "caption", "id")


def open_table(path: Path) -> Source:
    """Rows with `image` (a path relative to the table, or a URL) and perhaps `caption`, `id`; the rest is metadata.

    Raises SourceError: another suffix, not readable, no `image` column.
    """
    rows = _reader(path)
    first = next(rows(), None)
    if first is None:
        raise SourceError(f"{path}: the table has no rows")
    if "image" not in first:
        raise SourceError(f"{path}: there is no column `image`; its columns are {', '.join(map(str, first))}")
    root = path.parent.resolve()

    def records() -> Iterator[Record]:
        for row in rows():
            yield _record(root, row)

    return Source(str(root), records)


def read_captions(path: Path) -> dict[str, tuple[str, ...]]:
    """A table of `image` and `caption` for a folder: image path -> captions. Raises SourceError."""
    captions: dict[str, tuple[str, ...]] = {}
    for row in _reader(path)():
        if "image" not in row or "caption" not in row:
            raise SourceError(f"{path}: columns `image` and `caption` are needed; found {', '.join(map(str, row))}")
        captions[str(row["image"])] = captions.get(str(row["image"]), ()) + captions_of(_listed(row["caption"]))
    return captions


def _record(root: Path, row: dict[str, Any]) -> Record:
    image = str(row.get("image") or "")
    if image.startswith(("http://", "https://")):
        record = Record(uri=as_utf8(image), read=lambda: _fetch(image))
    elif not image:
        record = Record(uri="", read=_no_image)
    else:
        record = file_record(root, image)
    id = row.get("id")
    return Record(
        uri=record.uri,
        read=record.read,
        stamp=record.stamp,
        id=None if id in (None, "") else as_utf8(str(id)),
        captions=captions_of(_listed(row.get("caption"))),
        metadata={str(name): value for name, value in row.items() if name not in _SPECIAL},
    )


def _listed(value: Any) -> Any:
    """In a CSV a list of captions is written as JSON."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            parsed = json.loads(value)
        except ValueError:
            return value
        return parsed if isinstance(parsed, list) else value
    return value


def _no_image() -> bytes:
    raise ValueError("the row's `image` is empty")


def _fetch(url: str) -> bytes:
    import httpx

    content = bytearray()
    try:
        with httpx.stream("GET", url, timeout=_FETCH_SECONDS, follow_redirects=True) as answer:
            if answer.status_code != 200:
                raise ValueError(f"the host answered {answer.status_code}")
            for chunk in answer.iter_bytes():
                content += chunk
                if len(content) > _FETCH_BYTES:
                    raise ValueError(f"more than the {_FETCH_BYTES:,} bytes allowed")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ValueError(f"could not be fetched ({type(error).__name__})") from None
    return bytes(content)


def _reader(path: Path) -> Callable[[], Iterator[dict[str, Any]]]:
    readers: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".jsonl": _read_jsonl,
        ".ndjson": _read_jsonl,
        ".parquet": _read_parquet,
    }
    read = readers.get(path.suffix.lower())
    if read is None:
        raise SourceError(f"{path}: a table ends in {', '.join(readers)}")

    def rows() -> Iterator[dict[str, Any]]:
        try:
            yield from read(path)
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror or error}") from None
        except (UnicodeDecodeError, csv.Error) as error:
            raise SourceError(f"{path}: {error}") from None

    return rows


def _read_csv(path: Path) -> Iterator[dict[str, Any]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter=delimiter):
            yield {name: value for name, value in row.items() if name}


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise SourceError(f"{path}, line {number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise SourceError(f"{path}, line {number}: not a JSON object")
            yield row


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise SourceError(f"{path}: not a Parquet table: {error}") from None
