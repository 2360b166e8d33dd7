"""A table with an `image` column: CSV, TSV, JSONL or Parquet, read as a stream."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

from corpus import files, remote, web
from corpus.folder import file_record
from corpus.records import Record, Source, SourceError, as_address, as_source_error, as_utf8, captions_of, refuse

_STAMPED_AT_ONCE = 256  # rows
_SPECIAL = ("image", "caption", "id")

log = logging.getLogger(__name__)


def open_table(path: str | Path) -> Source:
    """Rows with `image` (a path relative to the table, or an address) and perhaps `caption`, `id`; the rest: metadata.

    A table elsewhere is copied once; its relative pictures lie beneath its folder, and are asked for their stamps.
    Raises SourceError: another suffix, not readable, no `image` column.
    """
    rows = _reader(path)
    first = next(rows(), None)
    if first is None:
        raise SourceError(f"{path}: the table has no rows")
    if "image" not in first:
        raise SourceError(f"{path}: there is no column `image`; its columns are {', '.join(map(str, first))}")
    if remote.is_remote(str(path)):
        root = remote.split(str(path))[0]
        return Source(root, lambda: _stamped(root, (_record(root, row) for row in rows())))
    folder = Path(path).parent.resolve()
    return Source(str(folder), lambda: _stamped("", (_record(folder, row) for row in rows())))


def read_captions(path: str | Path) -> dict[str, tuple[str, ...]]:
    """A table of `image` and `caption` for a folder: image path -> captions. Raises SourceError."""
    captions: dict[str, tuple[str, ...]] = {}
    for row in _reader(path)():
        if "image" not in row or "caption" not in row:
            raise SourceError(f"{path}: columns `image` and `caption` are needed; found {', '.join(map(str, row))}")
        name = os.path.normpath(str(row["image"]))
        try:
            captions[name] = captions.get(name, ()) + captions_of(_listed(row["caption"]))
        except ValueError as error:
            raise SourceError(f"{path}: {name}: {error}") from None
    return captions


def _record(root: str | Path, row: dict[str, Any]) -> Record:
    image = row.get("image") or ""
    if not isinstance(image, str | int):
        return Record(uri="", read=partial(refuse, f"the row's `image` is no path but a {type(image).__name__}"))
    image = str(image)
    if remote.is_remote(image):
        record = Record(uri=as_address(image), read=partial(remote.read, image))
    elif not image:
        record = Record(uri="", read=partial(refuse, "the row's `image` is empty"))
    elif image.lower().startswith(("file://", "local://")):
        record = Record(uri=as_address(image), read=partial(refuse, "a file of this machine is named by its path"))
    elif isinstance(root, str):
        record = Record(uri=as_address(image), read=partial(files.read, root, image))
    else:
        record = file_record(root, image)
    captions: tuple[str, ...] = ()
    try:
        captions = captions_of(_listed(row.get("caption")))
    except ValueError as error:
        record = replace(record, read=partial(refuse, str(error)))
    return replace(
        record,
        id=_id(row.get("id")),
        captions=captions,
        metadata={str(name): value for name, value in row.items() if name not in _SPECIAL},
    )


def _id(value: Any) -> str | None:
    """Where one is missing, pandas makes floats of whole numbers and NaN of the missing one."""
    if isinstance(value, float):
        value = None if value != value else int(value) if value.is_integer() else value
    return None if value in (None, "") else as_utf8(str(value))


def _listed(value: Any) -> Any:
    """In a CSV a list of captions is written as JSON."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return parsed if isinstance(parsed, list) else value
    return value


def _stamped(root: str, records: Iterator[Record]) -> Iterator[Record]:
    """Records with the stamps of files on fsspec's filesystems; the web is asked once a picture, not twice."""
    while chunk := list(islice(records, _STAMPED_AT_ONCE)):
        addresses = {number: url for number, record in enumerate(chunk) if (url := _address(root, record.uri))}
        stamps = dict(zip(addresses, remote.stamps(list(addresses.values())), strict=True)) if addresses else {}
        yield from (replace(r, stamp=stamps[n]) if n in stamps else r for n, r in enumerate(chunk))


def _address(root: str, uri: str) -> str:
    try:
        url = uri if remote.is_remote(uri) else remote.join(root, uri) if root and uri else ""
    except PermissionError:  # reading it will say so
        return ""
    return "" if web.is_web(url) else url


def _reader(path: str | Path) -> Callable[[], Iterator[dict[str, Any]]]:
    @cache
    def warn(what: str) -> None:  # once, however often the table is read
        log.warning("%s: %s", path, what)

    readers: dict[str, Callable[[str], Iterator[dict[str, Any]]]] = {
        ".csv": partial(_read_csv, ","),
        ".tsv": partial(_read_csv, "\t"),
        ".jsonl": _read_jsonl,
        ".ndjson": _read_jsonl,
        ".parquet": partial(_read_parquet, warn),
    }
    elsewhere = remote.is_remote(str(path))
    read = readers.get(Path(remote.split(str(path))[1] if elsewhere else path).suffix.lower())
    if read is None:
        raise SourceError(f"{path}: a table ends in {', '.join(readers)}")
    with as_source_error(path):
        copy = remote.local_copy(str(path)) if elsewhere else None  # lives as long as `rows`

    def rows() -> Iterator[dict[str, Any]]:
        try:
            yield from read(copy.name if copy else str(path))
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise SourceError(f"{path}: not in UTF-8: save it so") from None
        except ValueError as error:
            raise SourceError(f"{path}{error}" if isinstance(error, _Broken) else f"{path}: {error}") from None

    return rows


class _Broken(ValueError):
    """What is wrong with a table, to be said after its name."""


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if name and names.count(name) > 1:
            raise _Broken(f": there are two columns {name!r}")


def _read_csv(delimiter: str, path: str) -> Iterator[dict[str, Any]]:
    line = 1  # at which a row begins
    with open(path, encoding="utf-8-sig", newline="") as file:
        # Not strict, a quote that nobody closes would take in the rows up to the next quote, or to the end.
        rows = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            _check_names([name.strip() for name in rows.fieldnames or ()])
            line += rows.line_num
            for row in rows:
                if any(row.pop(None, ())):  # what is left over: half a caption
                    raise _Broken(
                        f", line {rows.line_num}: more fields than columns; a text with a {delimiter!r} needs quotes"
                    )
                yield {name.strip(): value for name, value in row.items() if name.strip()}
                line = rows.line_num + 1
        except csv.Error as error:
            raise _Broken(
                f', line {line}: {error}; a text that begins with " ends with one, and each " within it is doubled'
            ) from None


def _read_jsonl(path: str) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _Broken(f", line {number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise _Broken(f", line {number}: not a JSON object")
            yield row


def _read_parquet(warn: Callable[[str], None], path: str) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            _check_names(schema.names)
            # Metadata cannot hold them, and a batch of pictures may be gigabytes.
            left_out = [column.name for column in schema if column.name not in _SPECIAL and has_bytes(column.type)]
            if left_out:
                warn(f"columns of bytes are left out: {', '.join(left_out)}")
            for batch in file.iter_batches(1024, columns=[name for name in schema.names if name not in left_out]):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise _Broken(f": not a Parquet table: {error}") from None


def has_bytes(kind: Any) -> bool:
    """Whether values of this Arrow type are bytes or hold some."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_nested(kind):
        return any(has_bytes(kind.field(number).type) for number in range(kind.num_fields))
    return str(kind).removeprefix("large_").startswith(("binary", "fixed_size_binary"))
