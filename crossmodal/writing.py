"""Where a command writes to, for errors that do not say it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """A disk that has filled up is told of without a name, by Arrow in its own words: OSError then names the place."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(place)) from None
