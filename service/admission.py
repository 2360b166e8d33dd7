"""Whether there is time for one more request: judged by the seconds of work that wait, not by how many wait.

What waits at each stage has a cost (tokens, pixels, bytes) and a stage knows what a unit of it has taken of late. A
request is refused before its work is begun, and only while others' work waits: an idle service never refuses.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar

from prometheus_client import Gauge

from service.refusals import too_busy

QUEUED = Gauge(
    "crossmodal_queued_seconds",
    "Seconds of work that a stage has before it, estimated; the most of all workers",
    ["stage"],
    multiprocess_mode="livemax",
)


class Allowance:
    """What one request may take: until `deadline`, by time.monotonic(). Once admitted, all its parts are.

    One that `searches` waits there too, in the end.
    """

    __slots__ = ("admitted", "deadline", "searches")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.admitted = self.searches = False


ALLOWANCE: ContextVar[Allowance | None] = ContextVar("allowance", default=None)


def will_search() -> None:
    """The request at hand ends with a search."""
    if (allowance := ALLOWANCE.get()) is not None:
        allowance.searches = True


class Admission:
    """`most` seconds of work may wait; what would not be done before the request's deadline is refused too."""

    def __init__(self, most: float) -> None:
        self._most = most
        self.search: Callable[[], float] = float  # seconds that wait where searches end

    def admit(self, estimate: Callable[[], tuple[float, float]]) -> None:
        """Begin work: `estimate` gives the seconds of others' that lie before it, and its own. Raises Problem 503.

        What is no request's, and so has no allowance, is never refused.
        """
        allowance = ALLOWANCE.get()
        if allowance is not None and not allowance.admitted:
            self._check(allowance, *estimate())
            allowance.admitted = True

    def foresee(self, estimate: Callable[[], tuple[float, float]]) -> None:
        """The same, of work that is yet to come in."""
        if (allowance := ALLOWANCE.get()) is not None:
            self._check(allowance, *estimate())

    def _check(self, allowance: Allowance, wait: float, work: float) -> None:
        if allowance.searches:
            wait = max(wait, self.search())
        if wait <= 0:
            return
        if wait > self._most:
            raise too_busy("overload", f"{wait:.1f} s of work wait already, more than {self._most:g}", wait)
        if wait + work > allowance.deadline - time.monotonic():
            raise too_busy("deadline", f"{wait:.1f} s of work wait, which is more time than the request has", wait)
