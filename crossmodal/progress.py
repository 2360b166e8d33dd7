"""Progress of a long step on stderr: a bar with rate and time left, or a plain line now and then without a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int | None], None]
_PLAIN_EVERY = 5.0  # seconds


@contextmanager
def progress(what: str) -> Iterator[Report]:
    """Yield a function to call with (done, total or None)."""
    if sys.stderr.isatty():
        yield from _bar(what)
    else:
        yield from _lines(what)


def _bar(what: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None, rate="")
        began = time.monotonic()

        def report(done: int, total: int | None) -> None:
            rate = done / max(time.monotonic() - began, 1e-6)
            bar.update(task, completed=done, total=total, rate=f"{rate:,.0f}/s")

        yield report


def _lines(what: str) -> Iterator[Report]:
    began = last = time.monotonic()
    told = None

    def report(done: int, total: int | None) -> None:
        nonlocal last, told
        now = time.monotonic()
        if done == told or (now - last < _PLAIN_EVERY and done != total):
            return
        last, told = now, done
        rate = done / max(now - began, 1e-6)
        left = f", {(total - done) / rate:.0f} s left" if total and rate else ""
        print(f"{what}: {done:,}{f' of {total:,}' if total else ''} ({rate:,.0f}/s{left})", file=sys.stderr, flush=True)

    yield report
