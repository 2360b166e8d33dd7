"""WebDataset shards: tar files whose members share a base name, as img2dataset writes them."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from corpus import remote
from corpus.files import read_local
from corpus.folder import SUFFIXES
from corpus.records import Record, Source, as_address, captions_of, file_stamp

_CAPTIONS = (".txt", ".caption")
_KNOWN = ("caption", "sha256", "width", "height")  # fields of img2dataset that the index finds out for itself


@dataclass(frozen=True)
class _Shard:
    """`name` is relative to the root, `read` gives the bytes at (offset, length)."""

    name: str
    stamp: Callable[[], str]
    open: Callable[[], IO[bytes]]
    read: Callable[[int, int], bytes]


def open_shards(shards: Sequence[Path], root: Path) -> Source:
    """Pictures with `.txt` or `.caption` captions and `.json` metadata.

    A shard that is broken or cut short gives what lies before the break, then one record that cannot be read.
    """
    root = root.resolve()

    def shard(path: Path) -> _Shard:
        path = Path(os.path.realpath(path))
        name = path.relative_to(root).as_posix()
        return _Shard(name, partial(file_stamp, path), lambda: path.open("rb"), partial(read_local, path))

    return Source(str(root), lambda: _records(map(shard, sorted(shards))))


def open_remote_shards(names: Sequence[tuple[str, str]], root: str) -> Source:
    """As `open_shards`, for (name, stamp) of shards beneath an address; only headers and texts are fetched at first."""

    def shard(name: str, stamp: str) -> _Shard:
        url = remote.join(root, name)
        return _Shard(name, lambda: stamp, partial(remote.open_ranged, url), partial(remote.read, url))

    return Source(root, lambda: _records(shard(*named) for named in sorted(names)))


def _records(shards: Iterable[_Shard]) -> Iterator[Record]:
    for shard in shards:
        yield from _members(shard)


def _members(shard: _Shard) -> Iterator[Record]:
    stamp = shard.stamp()
    try:
        # Compressed, its pictures could not be read at random.
        with shard.open() as file, tarfile.open(fileobj=file, mode="r:") as tar:
            key, group = "", dict[str, tarfile.TarInfo]()
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, base = member.name.rpartition("/")
                if base.startswith("."):  # as in a folder; macOS puts them beside each file
                    continue
                stem, dot, suffix = base.partition(".")
                member_key = f"{folder}/{stem}"
                if member_key != key and group:
                    yield from _record(tar, shard, stamp, group)
                    group = {}
                key = member_key
                group[(dot + suffix).lower()] = member
            if group:
                yield from _record(tar, shard, stamp, group)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        yield Record(
            uri=as_address(shard.name), read=partial(_refuse, f"the shard is broken or cut short: {error}"), stamp=stamp
        )


def _refuse(reason: str) -> bytes:
    raise ValueError(reason)


def _record(tar: tarfile.TarFile, shard: _Shard, stamp: str, group: dict[str, tarfile.TarInfo]) -> Iterator[Record]:
    """The pictures of a sample: `a.jpg`, whatever `a.mask.png` is there; without it each of `a.1.jpg`, `a.2.jpg` …"""
    parts: dict[str, dict[str, tarfile.TarInfo]] = {}
    for suffix, member in group.items():
        before, _, last = suffix.rpartition(".")
        parts.setdefault(before, {})[f".{last}"] = member
    images = {before: next((each[last] for last in each if last in SUFFIXES), None) for before, each in parts.items()}
    for before in [""] if images.get("") else parts:
        if (image := images[before]) is not None:
            yield _picture(tar, shard, stamp, image, parts[before])


def _picture(
    tar: tarfile.TarFile, shard: _Shard, stamp: str, image: tarfile.TarInfo, beside: dict[str, tarfile.TarInfo]
) -> Record:
    metadata: dict[str, Any] = {}
    captions: tuple[str, ...] = ()
    for suffix, member in beside.items():
        if suffix == ".json":
            try:
                parsed = json.loads(_text(tar, member))
            except (ValueError, RecursionError):
                continue
            metadata = parsed if isinstance(parsed, dict) else {}
        elif suffix in _CAPTIONS:
            captions += captions_of(_text(tar, member))
    captions = captions or captions_of(metadata.get("caption"))
    if isinstance(listed := metadata.get("captions"), list) and (not captions or captions[0] in listed):
        captions = captions_of(listed)  # of prepared pairs .txt has only the first
    metadata = {field: value for field, value in metadata.items() if field not in _KNOWN}
    offset, length = image.offset_data, image.size
    return Record(
        uri=as_address(f"{shard.name}#{image.name}"), read=partial(shard.read, offset, length), stamp=stamp,
        captions=captions, metadata=metadata, offset=offset, length=length,
    )  # fmt: skip


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    return file.read().decode("utf-8", "replace") if file else ""
