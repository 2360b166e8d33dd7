"""Pictures of other prepared data, against which these are compared."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dual_encoder.image import ImageError, open_image
from training.prepare.ahead import map_ahead
from training.prepare.errors import PrepareError
from training.prepare.leakage import read_prepared
from training.prepare.near_duplicates import COLOUR_BYTES, SIDE, colours, perceptual_hash
from training.prepare.spool import DIGEST


class Foreign:
    """Digests, hashes and colours of the pictures of `folders`, and where each lies. Raises PrepareError."""

    def __init__(self, folders: Sequence[str], work: Path, pool: Executor, ahead: int) -> None:
        self.uris: list[str] = []
        self._digests = bytearray()
        self._hashes = array("Q")
        self._file = (work / "foreign").open("w+b")
        for folder in folders:
            for uri, digest, value, grid in map_ahead(pool, _describe, read_prepared(Path(folder)), ahead):
                self.uris.append(uri)
                self._digests += digest
                self._hashes.append(value)
                self._file.write(grid)
        self._file.flush()

    def __len__(self) -> int:
        return len(self.uris)

    def close(self) -> None:
        self._file.close()

    @property
    def digests(self) -> NDArray[np.void]:
        return np.frombuffer(bytes(self._digests), dtype=f"V{DIGEST}")

    @property
    def hashes(self) -> NDArray[np.uint64]:
        return np.array(self._hashes, dtype=np.uint64)

    def colours(self, items: NDArray[np.int64]) -> NDArray[np.uint8]:
        parts = [os.pread(self._file.fileno(), COLOUR_BYTES, COLOUR_BYTES * item) for item in items.tolist()]
        return np.frombuffer(b"".join(parts), dtype=np.uint8).reshape(-1, COLOUR_BYTES)


def _describe(picture: tuple[str, bytes]) -> tuple[str, bytes, int, bytes]:
    uri, data = picture
    try:
        image = open_image(data, 4 * SIDE).image
    except ImageError as error:
        raise PrepareError(f"{uri}: {error}") from None
    return uri, hashlib.sha256(data).digest()[:DIGEST], perceptual_hash(image), colours(image)
