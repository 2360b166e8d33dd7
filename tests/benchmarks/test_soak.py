"""What grows over a soak, or fails in it, is complained of."""

from __future__ import annotations

from typing import Any

from benchmarks.soak import _complaints


def rows(**changed: Any) -> list[dict[str, Any]]:
    return [
        {"rss_mb": 100.0 + n % 3, "threads": 20, "files": 50, "statuses": {"200": 9, "503": 1, "gone": 1, "422": 2}}
        | {name: value(n) for name, value in changed.items()}
        for n in range(12)
    ]


def test_complaints() -> None:
    assert _complaints(rows()) == []
    assert "rss_mb grew" in _complaints(rows(rss_mb=lambda n: 100.0 + 3 * n))[0]
    assert "threads grew" in _complaints(rows(threads=lambda n: 20 + n))[0]
    assert _complaints(rows(statuses=lambda n: {"200": 1, "500": 1} if n == 7 else {"200": 1})) == ["there was a 500"]
