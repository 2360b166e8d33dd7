"""Charts as inline SVG; colours are the page's, by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 560, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 16, 14, 40


def line_chart(title: str, series: Sequence[tuple[str, Sequence[tuple[float, float]]]], across: str) -> str:
    """Lines of (x ≥ 1, y in 0–1) over a logarithmic x."""
    most = max(x for _, points in series for x, _ in points)
    least = min(y for _, points in series for _, y in points)
    floor = math.floor(least * 10 - 1e-9) / 10 if least > 0.1 else 0.0
    floor = min(floor, 0.9)
    inner = WIDTH - _LEFT - _RIGHT

    def place_x(x: float) -> float:
        return _LEFT + inner * (math.log(x) / math.log(most) if most > 1 else 0)

    def place_y(y: float) -> float:
        return _TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - (y - floor) / (1 - floor))

    parts = []
    for i in range(5):
        y = floor + (1 - floor) * i / 4
        parts.append(_rule(_LEFT, place_y(y), WIDTH - _RIGHT, place_y(y)))
        parts.append(_text(_LEFT - 6, place_y(y) + 4, f"{y:.3g}", "end"))
    parts += [
        _text(place_x(x), HEIGHT - _BOTTOM + 16, str(x), "middle") for x in (1, 2, 5, 10, 20, 50, 100) if x <= most
    ]
    for number, (_, points) in enumerate(series):
        path = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="line s{number}" points="{path}"/>')
    return _svg(title, parts, across, [name for name, _ in series])


def histogram(title: str, series: Sequence[tuple[str, Sequence[float]]], low: float, high: float, across: str) -> str:
    """Outlines of shares a bin, over the bins from `low` to `high`."""
    tallest = max(max(shares) for _, shares in series) or 1.0
    inner, bottom = WIDTH - _LEFT - _RIGHT, HEIGHT - _BOTTOM
    parts = [_rule(_LEFT, bottom, WIDTH - _RIGHT, bottom)]
    for i in range(6):
        value = low + (high - low) * i / 5
        parts.append(_text(_LEFT + inner * i / 5, bottom + 16, f"{value:.2f}", "middle"))
    for number, (_, shares) in enumerate(series):
        step = inner / len(shares)
        points: list[tuple[float, float]] = [(_LEFT, bottom)]
        for i, share in enumerate(shares):
            y = bottom - (bottom - _TOP) * share / tallest
            points += [(_LEFT + step * i, y), (_LEFT + step * (i + 1), y)]
        points.append((_LEFT + inner, bottom))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polygon class="area s{number}" points="{path}"/>')
    return _svg(title, parts, across, [name for name, _ in series])


def interval_chart(title: str, rows: Sequence[tuple[str, float, float, float]], chance: float | None = None) -> str:
    """One line a row of (name, figure, low, high), all in 0–1; `chance` draws a dashed line."""
    names, line = 250, 22
    height = 30 + line * len(rows)
    inner = WIDTH - names - 60

    def place(value: float) -> float:
        return names + inner * value

    parts = []
    for value in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_rule(place(value), 4, place(value), height - 24, "dash" if value == chance else "rule"))
        parts.append(_text(place(value), height - 8, f"{value:g}", "middle"))
    for number, (name, figure, low, high) in enumerate(rows):
        y = 16 + line * number
        parts.append(_text(names - 10, y + 4, name, "end", "name"))
        parts.append(f'<line class="line s0" x1="{place(low):.1f}" y1="{y}" x2="{place(high):.1f}" y2="{y}"/>')
        parts.append(f'<circle class="dot s0" cx="{place(figure):.1f}" cy="{y}" r="4.5"/>')
        parts.append(_text(WIDTH - 4, y + 4, f"{figure:.3f}", "end", "name"))
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def _svg(title: str, parts: Sequence[str], across: str, names: Sequence[str]) -> str:
    keys = "".join(f'<span class="key s{i}">{escape(name)}</span>' for i, name in enumerate(names))
    label = _text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 6, across, "middle")
    return (
        f'<p class="keys">{keys}</p><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}{label}</svg>"
    )


def _rule(x1: float, y1: float, x2: float, y2: float, kind: str = "rule") -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
