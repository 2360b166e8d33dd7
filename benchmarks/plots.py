"""A line chart over logarithmic axes as an SVG file that stands alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

Series = tuple[str, Sequence[tuple[float, float]]]

_WIDTH, _HEIGHT = 640, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 16, 44, 46
_COLOURS = ("#2563eb", "#c2410c", "#047857", "#a21caf", "#57534e", "#b45309")


def line_chart(title: str, series: Sequence[Series], across: str, up: str) -> str:
    """Lines of (x, y), both above 0, on logarithmic axes. `across` and `up` name the axes and their units.

    Raises ValueError when there is nothing above 0 to draw.
    """
    series = [(name, [(x, y) for x, y in points if x > 0 and y > 0]) for name, points in series]
    series = [(name, points) for name, points in series if points]
    if not series:
        raise ValueError(f"{title}: nothing to draw")
    xs = sorted({x for _, points in series for x, _ in points})
    ys = [y for _, points in series for _, y in points]
    low, high = min(ys) * 0.8, max(ys) * 1.25
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place_x(x: float) -> float:
        if len(xs) == 1:
            return _LEFT + inner_width / 2
        return _LEFT + inner_width * math.log(x / xs[0]) / math.log(xs[-1] / xs[0])

    def place_y(y: float) -> float:
        return _TOP + inner_height * (1 - math.log(y / low) / math.log(high / low))

    parts = [f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>']
    for y in ticks(low, high):
        at = place_y(y)
        parts.append(f'<path d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}" stroke="#e5e5e5"/>')
        parts.append(_text(_LEFT - 8, at + 4, f"{y:,g}", "end"))
    last = -math.inf
    for x in xs:
        if place_x(x) - last >= 44:  # so that numbers do not run into one another
            last = place_x(x)
            parts.append(_text(last, _HEIGHT - _BOTTOM + 18, f"{x:,.4g}", "middle"))
    across_key, down_key = _LEFT, 16
    for number, (name, points) in enumerate(series):
        colour = _COLOURS[number % len(_COLOURS)]
        line = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{place_x(x):.1f}" cy="{place_y(y):.1f}" r="3.5" fill="{colour}"/>' for x, y in points]
        wide = 7 * len(name) + 34
        if across_key + wide > _WIDTH:
            across_key, down_key = _LEFT, down_key + 16
        parts.append(f'<path d="M{across_key} {down_key - 4}h14" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(across_key + 20, down_key, name, "start"))
        across_key += wide
    parts.append(_text(_LEFT + inner_width / 2, _HEIGHT - 8, across, "middle"))
    middle = _TOP + inner_height / 2
    parts.append(f'<g transform="rotate(-90 14 {middle})">{_text(14, middle + 4, up, "middle")}</g>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title, quote=True)}" font-family="sans-serif" font-size="12" fill="#333">'
        f"{''.join(parts)}</svg>\n"
    )


def ticks(low: float, high: float) -> list[float]:
    """Round numbers within [low, high]: 1, 2 and 5 times powers of ten, or of ten alone over many decades."""
    steps = (1, 2, 5) if high / low < 200 else (1,)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return [value for value in found if low <= value <= high]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
