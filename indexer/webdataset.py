"""WebDataset shards: tar files whose members share a base name, as img2dataset writes them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from indexer.folder import SUFFIXES
from indexer.records import Record, Source, as_utf8, captions_of, file_stamp

_CAPTIONS = (".txt", ".caption")
_KNOWN = ("caption", "sha256", "width", "height")  # fields of img2dataset that the index finds out for itself


def open_shards(shards: list[Path], root: Path) -> Source:
    """Pictures with `.txt` or `.caption` captions and `.json` metadata.

    A shard that is broken or cut short gives what lies before the break, then one record that cannot be read.
    """
    root = root.resolve()

    def records() -> Iterator[Record]:
        for shard in sorted(shards):
            yield from _shard(shard.resolve(), root)

    return Source(str(root), records)


def _shard(shard: Path, root: Path) -> Iterator[Record]:
    name, stamp = shard.relative_to(root).as_posix(), file_stamp(shard)
    try:
        with tarfile.open(shard, "r:") as tar:  # compressed, its pictures could not be read at random
            key, group = "", dict[str, tarfile.TarInfo]()
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, dot, suffix = base.partition(".")
                member_key = f"{folder}/{stem}"
                if member_key != key and group:
                    yield from _record(tar, shard, name, stamp, group)
                    group = {}
                key = member_key
                group[(dot + suffix).lower()] = member
            if group:
                yield from _record(tar, shard, name, stamp, group)
    except (tarfile.TarError, EOFError, OSError) as error:
        yield Record(uri=name, read=partial(_refuse, f"the shard is broken or cut short: {error}"), stamp=stamp)


def _refuse(reason: str) -> bytes:
    raise ValueError(reason)


def _record(
    tar: tarfile.TarFile, shard: Path, name: str, stamp: str, group: dict[str, tarfile.TarInfo]
) -> Iterator[Record]:
    image = next((member for suffix, member in group.items() if suffix in SUFFIXES), None)
    if image is None:
        return
    metadata: dict[str, Any] = {}
    captions: tuple[str, ...] = ()
    for suffix, member in group.items():
        if suffix == ".json":
            try:
                parsed = json.loads(_text(tar, member))
            except ValueError:
                continue
            metadata = parsed if isinstance(parsed, dict) else {}
        elif suffix in _CAPTIONS:
            captions += captions_of(_text(tar, member))
    captions = captions or captions_of(metadata.get("caption"))
    metadata = {field: value for field, value in metadata.items() if field not in _KNOWN}
    offset, length = image.offset_data, image.size

    def read() -> bytes:
        with shard.open("rb") as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) < length:
            raise ValueError("the shard is cut short")
        return data

    yield Record(
        uri=as_utf8(f"{name}#{image.name}"), read=read, stamp=stamp, captions=captions, metadata=metadata,
        offset=offset, length=length,
    )  # fmt: skip


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    return file.read().decode("utf-8", "replace") if file else ""
