"""How long the parts of a request waited and were worked at, and in which batches; kept only where somebody is told.

A request has a `Timeline`, each of its jobs a `Mark` in it, and the marks of one batch share a `Batch`. So a request's
log and trace name its batches, and a batch's the requests in it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from service import logs

log = logs.logger("crossmodal.batch")
_NUMBERS = itertools.count(1)


class Timeline:
    """Of the request with this ASGI scope. `span` is its span, where there are traces."""

    __slots__ = ("began", "marks", "scope", "span")

    def __init__(self, scope: Any) -> None:
        self.scope = scope
        self.began = time.monotonic()
        self.marks: list[Mark] = []
        self.span: Any = None

    @property
    def request_id(self) -> str:
        return str(self.scope.get("request_id", ""))

    @property
    def batches(self) -> dict[Batch, list[Mark]]:
        """The request's marks in each batch that has been worked at, in order."""
        found: dict[Batch, list[Mark]] = {}
        for mark in self.marks:
            if mark.batch is not None and mark.batch.ended:
                found.setdefault(mark.batch, []).append(mark)
        return found


TIMELINE: ContextVar[Timeline | None] = ContextVar("timeline", default=None)


class Batch:
    """Times by time.monotonic(); `ended` is 0 until it has."""

    __slots__ = ("began", "ended", "marks", "number", "stage")

    def __init__(self, stage: str, marks: Sequence[Mark]) -> None:
        self.number = next(_NUMBERS)
        self.stage, self.marks = stage, marks
        self.began, self.ended = time.monotonic(), 0.0


class Mark:
    """One job: when it was queued, and then its batch."""

    __slots__ = ("batch", "queued", "timeline")

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.queued = time.monotonic()
        self.batch: Batch | None = None


def mark() -> Mark | None:
    """Note that a job of the request at hand is queued; None where nobody is told of it."""
    if (timeline := TIMELINE.get()) is None:
        return None
    made = Mark(timeline)
    timeline.marks.append(made)
    return made


@contextmanager
def batch(stage: str, jobs: Sequence[Any]) -> Iterator[None]:
    """Note that those `jobs` that have a `mark` are worked at meanwhile."""
    marks = [job.mark for job in jobs if job.mark is not None]
    if not marks:
        yield
        return
    noted = Batch(stage, marks)
    for each in marks:
        each.batch = noted
    try:
        yield
    finally:
        noted.ended = time.monotonic()
        log.debug(
            "batch", stage=stage, batch=noted.number, items=len(jobs), ms=milliseconds(noted.ended - noted.began),
            request_ids=list(dict.fromkeys(each.timeline.request_id for each in marks)),
        )  # fmt: skip


def milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 3)
