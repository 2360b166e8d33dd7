"""SOURCE on the command line -> records: a folder, a table, or shards, on this machine or elsewhere."""

from __future__ import annotations

from pathlib import Path

from corpus import remote, web
from corpus.folder import NO_CAPTIONS, Captions, open_folder, open_remote_folder
from corpus.records import Source, SourceError, as_source_error
from corpus.table import open_table, read_captions
from corpus.webdataset import open_remote_shards, open_shards


def open_source(path: str | Path, captions: str | Path | None = None) -> Source:
    """A folder of pictures or of .tar shards, one .tar, or a table; a path or an fsspec address. Raises SourceError."""
    if remote.is_remote(str(path)):
        return _open_remote(str(path), captions)
    path = Path(str(path).removeprefix("file://"))
    if not path.exists():
        raise SourceError(f"{path}: there is no such file or folder")
    _check_captions(str(path), path.is_dir(), captions)
    if path.is_dir():
        if shards := [each for each in path.glob("*.tar") if each.is_file() and not each.name.startswith(".")]:
            return _alone(open_shards(shards, path), open_folder(path), captions)
        return _filled(open_folder(path, _captions(captions)), str(path))
    if path.suffix == ".tar":
        path = path.resolve()
        return open_shards([path], path.parent)
    return open_table(path)


def place_of(path: str | Path) -> str:
    """What names a source from one run to the next: the whole path, or the address without a query's secrets."""
    if not remote.is_remote(str(path)):
        return str(Path(str(path).removeprefix("file://")).resolve())
    return "/".join(remote.split(str(path))) if web.is_web(str(path)) else str(path)


def _open_remote(url: str, captions: str | Path | None) -> Source:
    remote.check(url)
    with as_source_error(url):
        root, name = remote.split(url.rstrip("/"))
        is_table = web.is_web(url) and not name.endswith(".tar")
        found = remote.Entry(False, None, "") if is_table else remote.entry(url)
        _check_captions(url, found.is_folder, captions)
        if not found.is_folder:
            if name.endswith(".tar"):
                if web.is_web(url) and not url.endswith(name):
                    raise SourceError(f"{url}: a shard is read again picture by picture, so its address holds no query")
                return open_remote_shards([(name, found.stamp)], root)
            return _open_remote_table(url)
        root = url.rstrip("/") + ("//" if url.endswith("://") else "")
        files = remote.walk(url)
        if shards := [(name, stamp) for name, stamp in files if name.endswith(".tar") and "/" not in name]:
            return _alone(open_remote_shards(shards, root), open_remote_folder(root, files), captions)
        return _filled(open_remote_folder(root, files, _captions(captions)), url)


def _open_remote_table(url: str) -> Source:
    try:
        return open_table(url)
    except SourceError as error:
        if web.is_web(url) and "a table ends in" in str(error):
            raise SourceError(f"{error}, and a folder of the web cannot be listed") from None
        raise


def _check_captions(path: str, is_folder: bool, captions: str | Path | None) -> None:
    if captions is not None and not is_folder:
        raise SourceError(f"{path} is not a folder: --captions goes with a folder of pictures")


def _alone(shards: Source, beside: Source, captions: str | Path | None) -> Source:
    """The shards of a folder that has nothing else, which would be passed over."""
    if captions is not None:
        raise SourceError(f"{shards.root} has .tar shards: --captions goes with a folder of pictures")
    if beside.count:
        raise SourceError(
            f"{shards.root}: {beside.count:,} pictures lie beside .tar shards: give one of them its own folder"
        )
    return shards


def _captions(path: str | Path | None) -> Captions:
    if path is None:
        return NO_CAPTIONS
    if remote.is_remote(str(path)):
        remote.check(str(path))
    return read_captions(path)


def _filled(folder: Source, path: str) -> Source:
    if folder.count == 0:
        raise SourceError(f"{path}: there are no pictures in this folder")
    return folder
