"""What the workers of one service tell each other: a folder that the process above them made, and removes.

It holds their metrics, which Prometheus' client adds up, and which checks one of them has made for all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_VARIABLES = ("_CROSSMODAL_SHARED", "PROMETHEUS_MULTIPROC_DIR")  # prometheus_client looks at its own when imported
_LASTS = 60.0  # seconds that a check holds for others


@contextlib.contextmanager
def made() -> Iterator[None]:
    """For the processes that are started meanwhile."""
    with tempfile.TemporaryDirectory(prefix="crossmodal-") as folder:
        os.environ |= dict.fromkeys(_VARIABLES, folder)
        try:
            yield
        finally:
            for variable in _VARIABLES:
                del os.environ[variable]


def folder() -> Path | None:
    """Where this process is one of several."""
    given = os.environ.get(_VARIABLES[0])
    return Path(given) if given else None


def forget(pid: int | None) -> None:
    """The gauges of a worker that has ended; what it has counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def checked(what: str) -> bool:
    """Whether a worker has just made this check."""
    with contextlib.suppress(OSError, ValueError):
        return (note := _note(what)) is not None and time.monotonic() - float(note.read_text()) < _LASTS
    return False


def has_checked(what: str) -> None:
    """Say so: all is well."""
    if (note := _note(what)) is not None:
        note.write_text(str(time.monotonic()))


def check_once(what: str, check: Callable[[], None]) -> None:
    """Check, unless another worker has just done so; while one is at it, wait for it. Raises what `check` raises."""
    if (note := _note(what)) is None:
        check()
        return
    with note.with_suffix(".lock").open("w") as lock:  # let go of when its process ends, however it does
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not checked(what):
            check()
            has_checked(what)


def _note(what: str) -> Path | None:
    shared = folder()
    return shared / f"{hashlib.sha256(what.encode()).hexdigest()}.checked" if shared is not None else None
