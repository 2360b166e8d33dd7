"""What OpenVINO has compiled, kept for the next start; used only where it is as it was written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dual_encoder.files import fsync, sha256
from dual_encoder.record import check_files

_RECORD = "compiled.json"


class Compiled:
    """A folder of OpenVINO's cache: what it compiled of one tower with one set of options.

    OpenVINO itself knows the tower again by its path, size and second of change, which another may have too, and takes
    what it kept unread.
    """

    def __init__(self, root: Path, path: Path, files: Mapping[str, str], options: Mapping[str, str]) -> None:
        """`files` are those that the tower at `path` consists of, with their SHA-256s."""
        self._root, self._path, self._files = root, path.resolve(), dict(files)
        key = json.dumps([str(self._path), self._files, options], sort_keys=True)
        self.folder = root / hashlib.sha256(key.encode()).hexdigest()[:32]
        self._checked = False

    def prepare(self, verify: bool) -> dict[str, str]:
        """Forget what is not whole; `verify` reads it all. What will then be compiled is checked.

        Returns the options to compile with. Raises ModelError.
        """
        known, whole = _record(self.folder).get("blobs", {}), False
        try:
            for blob in self.folder.glob("*.blob"):
                if blob.name in known and not (verify and sha256(blob) != known[blob.name]):
                    whole = True
                else:
                    blob.unlink(missing_ok=True)
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError:  # a cache that cannot be read or written is done without
            self._check()
            return {}
        if not whole:
            self._check()
        return {"CACHE_DIR": str(self.folder)}

    def note(self) -> None:
        """Remember what has just been compiled; let go of what was of files that are no longer there or changed.

        Raises ModelError.
        """
        self._check()
        with suppress(OSError):  # the disk is full, say: what is not noted is not used
            self._note()

    def _note(self) -> None:
        for other in self._root.glob(f"*/{_RECORD}"):
            record = _record(other.parent)
            path = Path(record.get("path", ""))
            if not path.is_file() or (path == self._path and record.get("files") != self._files):
                shutil.rmtree(other.parent, ignore_errors=True)
        blobs = list(self.folder.glob("*.blob"))
        for blob in blobs:
            fsync(blob)
        record = {"path": str(self._path), "files": self._files, "blobs": {blob.name: sha256(blob) for blob in blobs}}
        beside = self.folder / f".{os.getpid()}.tmp"
        beside.write_text(json.dumps(record), "utf-8")
        fsync(beside)
        beside.replace(self.folder / _RECORD)

    def _check(self) -> None:
        if not self._checked:
            check_files(self._path.parent, self._files)
            self._checked = True


def _record(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / _RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    return found
