"""WebDataset shards: tar files whose members share a base name, as img2dataset writes them."""

from __future__ import annotations

import json
import logging
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

from corpus import remote
from corpus.files import read_local
from corpus.folder import SUFFIXES
from corpus.records import Record, Source, SourceError, as_address, captions_of, file_stamp, refuse

_CAPTIONS = (".txt", ".caption")
_TEXTS = (*_CAPTIONS, ".json")
_HELD = 32 * 2**20  # bytes of texts that are read as a shard is gone through; the others are gone back to
_KNOWN = ("caption", "sha256", "width", "height")  # fields of img2dataset that the index finds out for itself

log = logging.getLogger(__name__)


class _Member(NamedTuple):
    """Where a file lies in a shard, in bytes; and what is in it, of a text that was read."""

    name: str
    offset: int
    length: int
    text: bytes | None = None


_Sample: TypeAlias = dict[str, _Member]  # by suffix


@dataclass(frozen=True)
class _Shard:
    """`name` is relative to the root, `read` gives the bytes at (offset, length)."""

    name: str
    stamp: Callable[[], str]
    open: Callable[[], IO[bytes]]
    read: Callable[[int, int], bytes]


def open_shards(shards: Sequence[Path], root: Path) -> Source:
    """Pictures with `.txt` or `.caption` captions and `.json` metadata, wherever in their shard these lie.

    So a shard is gone through before its first picture comes; memory holds where its members lie, and 32 MiB of texts.
    One that is broken or cut short gives what lies before the break, then one record that cannot be read. Raises
    SourceError for a link out of the root.
    """
    root = root.resolve()

    paths = {path: Path(os.path.realpath(path)) for path in sorted(shards)}
    for path, real in paths.items():
        if not real.is_relative_to(root):
            raise SourceError(f"{path}: a link out of {root}, which is not followed: copy the shard there (cp -L)")

    def shard(path: Path) -> _Shard:
        name = path.relative_to(root).as_posix()
        return _Shard(name, partial(file_stamp, path), lambda: path.open("rb"), partial(read_local, path))

    return Source(str(root), lambda: chain.from_iterable(_records(shard(path)) for path in paths.values()))


def open_remote_shards(names: Sequence[tuple[str, str]], root: str) -> Source:
    """As `open_shards`, for (name, stamp) of shards beneath an address; only headers and texts are fetched at first."""

    def shard(name: str, stamp: str) -> _Shard:
        url = remote.join(root, name)
        return _Shard(name, lambda: stamp, partial(remote.open_ranged, url), partial(remote.read, url))

    return Source(root, lambda: chain.from_iterable(_records(shard(*named)) for named in sorted(names)))


def _records(shard: _Shard) -> Iterator[Record]:
    stamp = shard.stamp()
    try:
        with shard.open() as file:
            samples: list[_Sample] = []
            odd: list[str] = []
            broken = _gather(file, samples)
            for sample in samples:
                yield from _pictures(file, shard, stamp, sample, odd)
            if odd:
                log.warning("%s: %d .json are no JSON objects, such as %s", shard.name, len(odd), odd[0])
            if broken is not None:
                raise broken
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        yield Record(
            uri=as_address(shard.name), read=partial(refuse, f"the shard is broken or cut short: {error}"), stamp=stamp
        )


def _gather(file: IO[bytes], samples: list[_Sample]) -> Exception | None:
    """Fill `samples`, in the order of their first members; returns why it is broken, whose last sample stays empty."""
    latest: dict[str, _Sample] = {}
    sample: _Sample = {}
    held = 0
    try:
        # Compressed, its pictures could not be read at random.
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                if not member.isfile() or base.startswith("."):  # as in a folder; macOS puts them beside each file
                    continue
                stem, dot, rest = base.partition(".")
                key, suffix = f"{folder}/{stem}", (dot + rest).lower()
                if key not in latest or suffix in latest[key]:  # another sample
                    latest[key] = {}
                    samples.append(latest[key])
                sample, kind, text = latest[key], suffix[suffix.rfind(".") :], None
                if kind in _TEXTS and held + member.size <= _HELD and (content := tar.extractfile(member)):
                    text = content.read()
                    held += len(text)
                if kind in _TEXTS or kind in SUFFIXES:
                    sample[suffix] = _Member(member.name, member.offset_data, member.size, text)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        sample.clear()
        return error
    return None


def _pictures(file: IO[bytes], shard: _Shard, stamp: str, sample: _Sample, odd: list[str]) -> Iterator[Record]:
    """The pictures of a sample: `a.jpg`, whatever `a.mask.png` is there; without it each of `a.1.jpg`, `a.2.jpg` …

    `odd` is told of .json that cannot be read.
    """
    parts: dict[str, _Sample] = {}
    for suffix, member in sample.items():
        before, _, last = suffix.rpartition(".")
        parts.setdefault(before, {})[f".{last}"] = member
    images = {before: next((each[last] for last in each if last in SUFFIXES), None) for before, each in parts.items()}
    for before in [""] if images.get("") else parts:
        if (image := images[before]) is not None:
            yield _picture(file, shard, stamp, image, parts[before], odd)


def _picture(file: IO[bytes], shard: _Shard, stamp: str, image: _Member, beside: _Sample, odd: list[str]) -> Record:
    metadata: dict[str, Any] = {}
    captions: tuple[str, ...] = ()
    for suffix, member in beside.items():
        if suffix == ".json":
            try:
                parsed = json.loads(_text(file, member))
            except (ValueError, RecursionError):
                parsed = None
            if isinstance(parsed, dict):
                metadata = parsed
            else:
                odd.append(member.name)
        elif suffix in _CAPTIONS:
            captions += captions_of(_text(file, member))
    read = partial(shard.read, image.offset, image.length)
    try:
        captions = captions or captions_of(metadata.get("caption"))
        if isinstance(listed := metadata.get("captions"), list) and (not captions or captions[0] in listed):
            captions = captions_of(listed)  # of prepared pairs .txt has only the first
    except ValueError as error:
        read = partial(refuse, str(error))
    metadata = {field: value for field, value in metadata.items() if field not in _KNOWN}
    return Record(
        uri=as_address(f"{shard.name}#{image.name}"), read=read, stamp=stamp,
        captions=captions, metadata=metadata, offset=image.offset, length=image.length,
    )  # fmt: skip


def _text(file: IO[bytes], member: _Member) -> str:
    text = member.text
    if text is None:
        file.seek(member.offset)
        text = file.read(member.length)
    return text.decode("utf-8-sig", "replace")
