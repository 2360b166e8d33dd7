"""The pictures that passed the checks, on disk; in memory, some 60 bytes each."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from training.prepare.checks import Examined, to_line
from training.prepare.near_duplicates import COLOUR_BYTES

DIGEST = 16  # bytes of the SHA-256 that are compared


class Spool:
    """Items in the order of the source: bytes, colours and facts in files, what is compared in arrays."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pictures: BinaryIO = (folder / "pictures").open("w+b")
        self._colours: BinaryIO = (folder / "colours").open("w+b")
        self._facts: BinaryIO = (folder / "facts.0").open("w+b")
        self._generation = 0
        self._end = 0
        self._digests = bytearray()
        self._hashes = array("Q")
        self._at = array("q")
        self._length = array("I")
        self._fact_at = array("q")
        self._split = array("h")
        self._pixels = array("I")
        self._again_of = array("I")  # an exact duplicate's item
        self._again_at = array("q")  # and its facts
        self._slots = array("i", [-1]) * 1024  # open addressing: digest and split -> item

    def __len__(self) -> int:
        return len(self._at)

    def close(self) -> None:
        for file in (self._pictures, self._colours, self._facts):
            file.close()

    def find(self, digest: bytes, split: int) -> int | None:
        """The item of a picture seen before in the same split."""
        item = self._slots[self._slot(digest[:DIGEST], split)]
        return None if item < 0 else item

    def add(self, found: Examined, split: int) -> int:
        item = len(self)
        digest = found.sha256[:DIGEST]
        self._at.append(self._end)
        self._length.append(len(found.data))
        self._end += self._pictures.write(found.data)
        self._colours.write(found.colours.ljust(COLOUR_BYTES, b"\0"))
        self._fact_at.append(self._write_facts(found))
        self._digests += digest
        self._hashes.append(found.hash)
        self._split.append(split)
        self._pixels.append(min(found.width * found.height, 2**32 - 1))
        slot = self._slot(digest, split)
        if self._slots[slot] < 0:
            self._slots[slot] = item
        if 3 * len(self) > 2 * len(self._slots):
            self._grow()
        return item

    def add_again(self, item: int, found: Examined) -> None:
        """Another record of the same picture: its captions and its uri are kept."""
        self._again_of.append(item)
        self._again_at.append(self._write_facts(found))

    def join(self, items: NDArray[np.int64], owners: NDArray[np.int64]) -> None:
        """These items (n,) turn out to be further records of the pictures of those, and what was added to them too."""
        owner = np.arange(len(self))
        owner[items] = owners
        again = owner[np.array(self._again_of, dtype=np.int64)]
        self._again_of = array("I", [*again.tolist(), *owners.tolist()])
        self._again_at.extend(self._fact_at[item] for item in items.tolist())

    def _write_facts(self, found: Examined) -> int:
        at = self._facts.tell()
        self._facts.write(
            to_line(
                {
                    "uri": found.uri, "captions": found.captions, "languages": found.languages, "again": [],
                    "sha256": found.sha256.hex(), "suffix": found.suffix, "width": found.width,
                    "height": found.height, "metadata": found.metadata,
                }
            )
        )  # fmt: skip
        return at

    def _slot(self, digest: bytes, split: int) -> int:
        mask = len(self._slots) - 1
        slot = (int.from_bytes(digest[:8], "little") ^ (split + 1) * 0x9E3779B1) & mask
        while (item := self._slots[slot]) >= 0:
            if self._split[item] == split and self._digests[DIGEST * item : DIGEST * (item + 1)] == digest:
                break
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        self._slots = array("i", [-1]) * (2 * len(self._slots))
        for item in range(len(self)):
            slot = self._slot(bytes(self._digests[DIGEST * item : DIGEST * (item + 1)]), self._split[item])
            if self._slots[slot] < 0:
                self._slots[slot] = item

    def finish_adding(self) -> None:
        self._slots = array("i")
        for file in (self._pictures, self._colours, self._facts):
            file.flush()

    def merge(self) -> int:
        """Give each item the captions and uris of its exact duplicates; how many captions it had already."""
        if not self._again_of:
            return 0
        known = 0
        order = np.argsort(np.asarray(self._again_of), kind="stable")
        owners = np.asarray(self._again_of)[order]
        old = self._facts

        def merged(item: int, facts: dict[str, Any]) -> dict[str, Any]:
            nonlocal known
            for number in order[np.searchsorted(owners, item) : np.searchsorted(owners, item, "right")].tolist():
                other = _line_at(old, self._again_at[number])
                facts["again"].append(other["uri"])
                for caption, language in zip(other["captions"], other["languages"], strict=True):
                    if caption in facts["captions"]:
                        known += 1
                    else:
                        facts["captions"].append(caption)
                        facts["languages"].append(language)
            return facts

        self.rewrite(merged)
        self._again_of, self._again_at = array("I"), array("q")
        return known

    def rewrite(self, change: Callable[[int, dict[str, Any]], dict[str, Any] | None]) -> None:
        """Put every item's facts through `change`; None leaves the item without facts (it is out)."""
        self._generation += 1
        after = (self._folder / f"facts.{self._generation}").open("w+b")
        old = self._facts
        for item in range(len(self)):
            if self._fact_at[item] < 0:
                continue
            facts = change(item, _line_at(old, self._fact_at[item]))
            if facts is None:
                self._fact_at[item] = -1
                continue
            self._fact_at[item] = after.tell()
            after.write(to_line(facts))
        after.flush()
        old.close()
        Path(old.name).unlink()
        self._facts = after

    def facts(self, item: int) -> dict[str, Any]:
        return _line_at(self._facts, self._fact_at[item])

    def data(self, item: int) -> bytes:
        return os.pread(self._pictures.fileno(), self._length[item], self._at[item])

    def colours(self, items: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 (n, COLOUR_BYTES)."""
        parts = [os.pread(self._colours.fileno(), COLOUR_BYTES, COLOUR_BYTES * item) for item in items.tolist()]
        return np.frombuffer(b"".join(parts), dtype=np.uint8).reshape(-1, COLOUR_BYTES)

    @property
    def digests(self) -> NDArray[np.void]:
        """(n,) of DIGEST bytes, compared as a whole."""
        return np.frombuffer(bytes(self._digests), dtype=f"V{DIGEST}")

    @property
    def digest_words(self) -> NDArray[np.uint64]:
        """uint64 (n, 2), big-endian words: sorting by both sorts by digest."""
        return np.frombuffer(bytes(self._digests), dtype=">u8").astype(np.uint64).reshape(-1, 2)

    @property
    def hashes(self) -> NDArray[np.uint64]:
        return np.array(self._hashes, dtype=np.uint64)

    @property
    def splits(self) -> NDArray[np.int16]:
        """The split that the source named; -1: none."""
        return np.array(self._split, dtype=np.int16)

    def by_quality(self) -> NDArray[np.int64]:
        """All items: most pixels first, then most bytes; the digest decides the rest."""
        words = self.digest_words
        pixels, length = np.array(self._pixels, dtype=np.int64), np.array(self._length, dtype=np.int64)
        return np.lexsort((words[:, 1], words[:, 0], -length, -pixels))


def _line_at(file: BinaryIO, at: int) -> dict[str, Any]:
    file.seek(at)
    facts: dict[str, Any] = json.loads(file.readline())
    return facts
