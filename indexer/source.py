"""SOURCE on the command line -> records: a folder, a table, or shards."""

from __future__ import annotations

from pathlib import Path

from indexer.folder import open_folder
from indexer.records import Source, SourceError
from indexer.table import open_table, read_captions
from indexer.webdataset import open_shards


def open_source(path: str | Path, captions: str | Path | None = None) -> Source:
    """A folder of pictures or of .tar shards, one .tar, or a table. Raises SourceError."""
    path = Path(path)
    if not path.exists():
        raise SourceError(f"{path}: there is no such file or folder")
    if captions is not None and not path.is_dir():
        raise SourceError(f"{path} is not a folder: --captions goes with a folder of pictures")
    if path.is_dir():
        if shards := list(path.glob("*.tar")):
            return open_shards(shards, path)
        source = open_folder(path, read_captions(Path(captions)) if captions is not None else None)
        if source.count == 0:
            raise SourceError(f"{path}: there are no pictures in this folder")
        return source
    if path.suffix == ".tar":
        return open_shards([path], path.parent)
    return open_table(path)
