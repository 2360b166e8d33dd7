"""An index directory: which snapshot is live, and who may write."""

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vector_index.errors import IndexLocked, IndexNotFound, SnapshotCorrupt
from vector_index.files import make_folder, replace_text
from vector_index.snapshot import Snapshot


class IndexDirectory:
    """`INDEX/`: its snapshots, the name of the live one in `CURRENT`, and the writer's lock in `.lock`.

    Making one touches no file; the directory need not exist yet.
    """

    searchers = 1  # threads that search: FAISS computes on the one that calls it
    down_for = 0.0

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"IndexDirectory({str(self.path)!r})"

    @property
    def snapshots(self) -> Path:
        """The folder that the snapshots lie in."""
        return self.path / "snapshots"

    def current(self) -> str | None:
        """Return the name of the live snapshot, None where nothing has been published.

        Raises:
            SnapshotCorrupt: CURRENT does not hold a plain name.
        """
        path = self.path / "CURRENT"
        try:
            name = path.read_text(encoding="utf-8").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError as error:
            raise SnapshotCorrupt(f"{path}: {error}") from error
        if not name or name.startswith(".") or Path(name).name != name:
            raise SnapshotCorrupt(f"{path}: {name!r} is not the name of a snapshot")
        return name

    def _live(self) -> str:
        """The name of the live snapshot. Raises IndexNotFound, and as `current` does."""
        if (name := self.current()) is None:
            raise IndexNotFound(f"{self.path}: there is no index here (no CURRENT file)")
        return name

    def open(self) -> Snapshot:
        """Open the live snapshot, after checks that read no data: `Snapshot` says which.

        Raises:
            IndexNotFound: nothing has been published here.
            SnapshotCorrupt, UnsupportedFormat: it cannot be served; the message names the file.
        """
        name = self._live()
        try:
            return Snapshot(self.snapshots / name)
        except SnapshotCorrupt:
            if (newer := self._live()) == name:
                raise
            return Snapshot(self.snapshots / newer)  # a writer published it, and deleted the one that was live before

    def close(self) -> None:
        """Nothing is held open."""

    def make_current(self, name: str) -> None:
        """Make a complete snapshot the live one, atomically. The caller holds the lock."""
        replace_text(self.path / "CURRENT", name + "\n")

    def names(self) -> list[str]:
        """The names of the snapshots that are there, oldest first."""
        if not self.snapshots.is_dir():
            return []
        return sorted(path.name for path in self.snapshots.iterdir() if path.is_dir() and path.name[0] != ".")

    def collect(self, keep: int) -> list[str]:
        """Delete all snapshots but the live one and the newest `keep`, and what dead writers left.

        The caller holds the lock. Who has a snapshot open keeps it until it is closed.

        Returns:
            The names of what was deleted.

        Raises:
            ValueError: keep is below 1.
            IndexNotFound: nothing has been published here.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        live = self._live()
        gone = [name for name in self.names()[:-keep] if name != live]
        for name in gone:  # what is half deleted no longer looks like a snapshot
            os.rename(self.snapshots / name, self.snapshots / f".tmp-{name}")
        for leftover in self.snapshots.glob(".tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        return gone

    @contextmanager
    def change(self) -> Iterator[Snapshot]:
        """Hold an index that is there already for writing; gives its live snapshot, open.

        Raises:
            IndexNotFound: nothing has been published here; nothing is made either.
            IndexLocked, SnapshotCorrupt, UnsupportedFormat: as `lock` and `open` say.
        """
        self._live()
        with self.lock(), self.open() as snapshot:
            yield snapshot

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the index for writing, making its directory if need be; readers are not kept out.

        The kernel lets go of the lock when its process ends, however it ends. The file stays: deleting it would let
        two writers each lock a file of that name.

        Raises:
            IndexLocked: another writer holds it; the message names its process and host.
        """
        make_folder(self.path)
        with (self.path / ".lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise IndexLocked(f"{self.path}: being written by {holder}") from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)
