"""What was refused, counted by reason: the one place where the reasons are listed."""

from __future__ import annotations

from typing import Literal

from prometheus_client import Counter

from service.errors import Problem

Reason = Literal[
    "no_key", "bad_key", "scope", "rate_limit", "too_large", "slow_body", "deadline", "loop", "memory", "overload",
    "invalid", "invalid_http", "connections", "decoder", "slow_head", "slow_reader", "store",
    "url_off", "url_malformed", "url_host", "url_address", "url_redirect", "url_size", "url_time", "url_type",
]  # fmt: skip

REFUSALS = Counter("crossmodal_refusals_total", "Requests, or pictures of requests, refused for safety", ["reason"])


def count(reason: Reason) -> None:
    REFUSALS.labels(reason).inc()


def refused(reason: Reason, detail: str, status: int = 422) -> Problem:
    """The counted Problem to raise."""
    count(reason)
    return Problem(status, detail)
