"""The metric of everything that was refused, by reason."""

from __future__ import annotations

from prometheus_client import Counter

REFUSALS = Counter("crossmodal_refusals_total", "Requests refused, by reason", ["reason"])
