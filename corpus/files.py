"""One file of a corpus, read again from where it was indexed: from this machine or from elsewhere."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from urllib.parse import unquote

from corpus import remote
from corpus.records import as_name
from dual_encoder.image import MAX_BYTES


def read(
    root: str | Path, name: str, offset: int | None = None, length: int | None = None, *, urls: bool = False
) -> bytes:
    """The bytes of a picture, at most MAX_BYTES, as a snapshot tells where it lies.

    Args:
        root: the manifest's `source`: a folder of this machine, or an address (s3://…, https://…) of one elsewhere.
        name: the picture's `uri`, which `as_address` made of its name; in a shard (`00000.tar#000.jpg`) it is the shard
            that is read.
        offset, length: in bytes, both or neither; where in a shard the picture lies.
        urls: whether a `uri` that is an address of its own is read too; else it must lie beneath `root`.

    Raises FileNotFoundError (it is gone), PermissionError (not readable, or it leads out of the root, by `..`, by an
    absolute path or by a link), another OSError, or ValueError with the reason: cut short, too large, not a file.
    """
    if offset is not None and length is not None:
        name = shard_of(name)
    root = str(root).removeprefix("file://")
    if remote.is_remote(name):
        beneath = name.startswith(root.rstrip("/") + "/") and ".." not in unquote(name).split("/")
        if not urls and not (remote.is_remote(root) and beneath):
            raise PermissionError(errno.EACCES, "the address leads out of the corpus", name)
        return remote.read(name, offset, length)
    if remote.is_remote(root):
        return remote.read(remote.join(root, name), offset, length)
    folder = Path(root).resolve()
    try:
        path = (folder / name).resolve()
        if not path.exists():
            path = (folder / as_name(name)).resolve()
    except RuntimeError:  # before Python 3.13
        raise OSError(errno.ELOOP, "a link leads to itself", name) from None
    if not path.is_relative_to(folder):
        raise PermissionError(errno.EACCES, "the name leads out of the corpus", name)
    return read_local(path, offset, length, beneath=folder)


def read_local(
    path: Path, offset: int | None = None, length: int | None = None, *, beneath: Path | None = None
) -> bytes:
    """A file of this machine, or a piece of it. Raises as `read` does.

    With `beneath`, a resolved folder, it is the file that was opened that must lie there: a link that was put in its
    way, or in a folder's, after `path` was resolved is not followed out of it.
    """
    # A pipe would be waited for for ever, but for O_NONBLOCK; of `path`, which is resolved, no part is a link.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if beneath is not None else 0)
    handle = os.open(path, flags)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if beneath is not None and not Path(os.readlink(f"/proc/self/fd/{handle}")).is_relative_to(beneath):
            raise PermissionError(errno.EACCES, "the name leads out of the corpus", path.name)
        size = status.st_size if length is None else length
        if size > MAX_BYTES:
            raise ValueError(f"the file has {size:,} bytes, more than the {MAX_BYTES:,} allowed")
        with open(handle, "rb", closefd=False) as file:
            if length is None:
                # Room for MAX_BYTES would be new memory for each file, and cost a twentieth of decoding it.
                data = file.read(size + 1)
                if len(data) > size:  # it has grown, or tells no size
                    data += file.read(MAX_BYTES)
                if len(data) > MAX_BYTES:
                    raise ValueError(f"more than the {MAX_BYTES:,} bytes allowed")
                return data
            file.seek(offset or 0)
            data = file.read(length)
    finally:
        os.close(handle)
    if len(data) < length:
        raise ValueError("the file is cut short")
    return data


def shard_of(uri: str) -> str:
    """`00000.tar#000.jpg` -> `00000.tar`; either side may hold a # of its own."""
    shard, found, _ = uri.partition(".tar#")
    return shard + ".tar" if found else uri
