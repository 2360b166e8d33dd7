"""One split as uncompressed WebDataset shards and an Arrow table that says where each picture lies in them."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from training.prepare.checks import to_line

_FIELDS: list[Any] = [
    ("shard", pa.string()),
    ("offset", pa.int64()),
    ("length", pa.int64()),
    ("captions", pa.list_(pa.string())),
    ("languages", pa.list_(pa.string())),
    ("negatives", pa.list_(pa.string())),
    ("group", pa.string()),
    ("key", pa.string()),
    ("uri", pa.string()),
    ("metadata", pa.string()),
]
SCHEMA = pa.schema(_FIELDS)
_BATCH = 4096  # rows


class SplitWriter:
    """Writes `<split>-00000.tar` … and `<split>.arrow` into a folder; the same pairs give the same bytes."""

    def __init__(self, folder: Path, split: str, shard_size: int) -> None:
        self._folder, self._split, self._size = folder, split, shard_size
        self._shards: list[dict[str, Any]] = []
        self._file: _Hashed | None = None
        self._tar: tarfile.TarFile | None = None
        self._in_shard = self._pairs = self._captions = 0
        self._rows: list[dict[str, Any]] = []
        self._index_file = _Hashed(folder / f"{split}.arrow")
        self._index = pa.ipc.new_file(pa.PythonFile(self._index_file, "w"), SCHEMA)

    def add(self, key: str, suffix: str, image: bytes, facts: dict[str, Any]) -> None:
        """`facts` go into `<key>.json`, and into the table too; `metadata` there is JSON of what has no column."""
        if self._tar is None:
            self._open_shard()
        assert self._tar is not None
        offset = self._member(f"{key}.{suffix}", image)
        self._member(f"{key}.json", to_line(facts))
        self._member(f"{key}.txt", facts["captions"][0].encode())
        row = {name: facts[name] for name in ("captions", "languages", "group", "uri")}
        row["negatives"] = _texts(facts.get("negatives"))
        others = {name: value for name, value in facts.items() if name not in row}
        row["metadata"] = to_line(others).decode().strip()
        self._rows.append({"shard": self._name(), "offset": offset, "length": len(image), "key": key, **row})
        self._in_shard += 1
        self._pairs += 1
        self._captions += len(facts["captions"])
        if len(self._rows) == _BATCH:
            self._write_rows()
        if self._in_shard == self._size:
            self._close_shard()

    def close(self) -> dict[str, Any]:
        """The split's entry of the manifest."""
        if self._tar is not None:
            self._close_shard()
        self._write_rows()
        self._index.close()
        index = self._index_file.finish()
        return {"pairs": self._pairs, "captions": self._captions, "shards": self._shards, "index": index}

    def _name(self) -> str:
        return f"{self._split}-{len(self._shards):05d}.tar"

    def _open_shard(self) -> None:
        self._file = _Hashed(self._folder / self._name())
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)

    def _member(self, name: str, content: bytes) -> int:
        """Returns where the content begins."""
        assert self._tar is not None
        info = tarfile.TarInfo(name)  # time, owner and group are 0
        info.size, info.mode = len(content), 0o644
        at = self._tar.offset + tarfile.BLOCKSIZE
        self._tar.addfile(info, io.BytesIO(content))
        self._tar.members.clear()  # type: ignore[attr-defined]  # it would remember every one
        return at

    def _close_shard(self) -> None:
        assert self._tar is not None
        assert self._file is not None
        self._tar.close()
        self._shards.append({**self._file.finish(), "pairs": self._in_shard})
        self._tar = self._file = None
        self._in_shard = 0

    def _write_rows(self) -> None:
        if self._rows:
            self._index.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=SCHEMA))
            self._rows = []


def _texts(value: Any) -> list[str]:
    """Written negatives of a source that has them: captions that are false of the picture."""
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


class _Hashed(io.RawIOBase):
    """A file written from beginning to end, with the SHA-256 of what went into it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("wb")
        self._digest = hashlib.sha256()
        self._at = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._digest.update(data)
        written = self._file.write(data)
        self._at += written
        return written

    def tell(self) -> int:
        return self._at

    def finish(self) -> dict[str, Any]:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"name": self._path.name, "bytes": self._at, "sha256": self._digest.hexdigest()}
