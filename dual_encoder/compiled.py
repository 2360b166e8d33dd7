"""What OpenVINO has compiled, kept for the next start; used only where it is as it was written."""

from __future__ import annotations

import hashlib
import json
import mmap
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dual_encoder.files import staged
from dual_encoder.record import check_files

_RECORD = "compiled.json"
_BLOB = "tower.blob"


class Compiled:
    """A folder of the cache: what was compiled of one tower with one set of options.

    OpenVINO's own cache knows a tower again by its path, size and second of change, which another may have too, and
    takes what it kept unread.
    """

    def __init__(
        self, root: Path, path: Path, files: Mapping[str, str], options: Mapping[str, str], version: str
    ) -> None:
        """`files` are those that the tower at `path` consists of, with their SHA-256s; `version` is OpenVINO's."""
        self._root, self._path, self._files, self._version = root, path.resolve(), dict(files), version
        key = json.dumps([str(self._path), self._files, options, version], sort_keys=True)
        self.folder = root / hashlib.sha256(key.encode()).hexdigest()[:32]

    def load(self, verify: bool) -> mmap.mmap | None:
        """What was kept, if it is whole, mapped: not memory that must be held. `verify` reads it all."""
        record = _record(self.folder)
        try:
            with (self.folder / _BLOB).open("rb") as file:
                # Private, for OpenVINO wants memory that can be written, though it writes nothing.
                blob = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        except (OSError, ValueError):  # there is none, or an empty one
            return None
        whole = len(blob) == record.get("bytes") and not (verify and _sha256(blob) != record.get("sha256"))
        return blob if whole else None

    def keep(self, blob: memoryview) -> mmap.mmap | None:
        """Write down what has just been compiled, and map it; None where the cache cannot be written.

        What was of files that are no longer there, or changed, or of another version, goes.
        """
        try:
            self._forget()
            with staged(self.folder) as work:
                (work / _BLOB).write_bytes(blob)
                record = {
                    "path": str(self._path),
                    "files": self._files,
                    "version": self._version,
                    "bytes": len(blob),
                    "sha256": _sha256(blob),
                }
                (work / _RECORD).write_text(json.dumps(record), "utf-8")
        except OSError:  # the disk is full, say, or another process is at it, or was
            pass
        return self.load(verify=False)

    def check(self) -> None:
        """Raises ModelError where the tower's files are not those that were told."""
        check_files(self._path.parent, self._files)

    def _forget(self) -> None:
        for other in self._root.glob(f"*/{_RECORD}"):
            record = _record(other.parent)
            path = Path(record.get("path", ""))
            mine = (record.get("files"), record.get("version")) == (self._files, self._version)
            if not path.is_file() or (path == self._path and not mine):
                shutil.rmtree(other.parent, ignore_errors=True)


def _sha256(data: memoryview | mmap.mmap) -> str:
    return hashlib.sha256(data).hexdigest()


def _record(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / _RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    return found
