"""Results become a chart and a table."""

from __future__ import annotations

from typing import Any

from benchmarks.emoji.page import chart, table


def row(model: str, share: float, language: str, value: float, **more: Any) -> dict[str, Any]:
    figures = {f"{group}: {way} @{k}": value for group in ("learned", "new") for way in ("text → image", "image → text")
               for k in (1, 5, 10) if share or group == "new"}  # fmt: skip
    return {"model": model, "share": share, "language": language, **figures, **more}


def test_runs_in_the_order_of_their_shares() -> None:
    rows = [row("from scratch", share, language, share / 4, training_pictures=int(1000 * share), steps=9)
            for language in ("zh", "en") for share in (1, 0.5)]  # fmt: skip
    rows.append(row("as it is", 0, "en", 0.01))
    assert table(rows)[2:4] == [
        "| 0 | as it is | en |  |  | 0.010, 0.010 |",
        "| 500 | from scratch | en | 0.125, 0.125, 0.125 | 0.125, 0.125, 0.125 | 0.125, 0.125 |",
    ]
    assert [line.split(" | ")[2] for line in table(rows)[3:]] == ["en", "zh", "en", "zh"]
    drawn = chart(rows)
    assert "from scratch, zh" in drawn
    assert "as it is" not in drawn
