"""What was refused, counted by reason: the one place where the reasons are listed, and the one way to count them."""

from __future__ import annotations

import math
from typing import Literal, get_args

from prometheus_client import Counter

from service.errors import Problem

Reason = Literal[
    "no_key", "bad_key", "scope", "rate_limit", "too_large", "slow_body", "deadline", "loop", "memory", "overload",
    "invalid", "invalid_http", "connections", "decoder", "slow_head", "slow_reader", "store",
    "url_off", "url_malformed", "url_host", "url_address", "url_redirect", "url_size", "url_time", "url_type",
]  # fmt: skip

REFUSALS = Counter("crossmodal_refusals_total", "Requests, or pictures of requests, refused for safety", ["reason"])
_COUNTERS = {reason: REFUSALS.labels(reason) for reason in get_args(Reason)}  # so that those that have not been are 0


def count(reason: Reason) -> None:
    _COUNTERS[reason].inc()


def refused(reason: Reason, detail: str, status: int = 422) -> Problem:
    """The Problem to raise, counted."""
    count(reason)
    return Problem(status, detail, counted=True)


def too_busy(reason: Reason, detail: str, wait: float = 1.0) -> Problem:
    """A 503 that says when to come again, counted."""
    count(reason)
    retry = {"Retry-After": str(min(60, max(1, math.ceil(wait))))}
    return Problem(503, f"the service is too busy: {detail}; try again later", retry, counted=True)
