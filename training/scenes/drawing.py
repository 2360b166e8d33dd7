"""A scene as a picture."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw

from training.scenes.scene import BACKGROUNDS, COLOURS, POSITIONS, Point, Scene, Thing

SIDE = 256  # px
_OVERSAMPLING = 4  # shapes are drawn this much larger and averaged down: anti-aliasing


def _polygon(corners: int, turn: float = -90.0) -> list[Point]:
    angles = (math.radians(turn + 360 * i / corners) for i in range(corners))
    return [(0.5 + 0.5 * math.cos(a), 0.5 + 0.5 * math.sin(a)) for a in angles]


def _star() -> list[Point]:
    radii = (0.5, 0.2)
    angles = (math.radians(-90 + 36 * i) for i in range(10))
    return [(0.5 + radii[i % 2] * math.cos(a), 0.53 + radii[i % 2] * math.sin(a)) for i, a in enumerate(angles)]


def _heart() -> list[Point]:
    points = []
    for i in range(60):
        t = 2 * math.pi * i / 60
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((0.5 + math.sin(t) ** 3 / 2, 0.46 - y / 33))
    return points


def _ellipse(rx: float, ry: float, start: float = 0, stop: float = 360, cy: float = 0.5) -> list[Point]:
    angles = (math.radians(start + (stop - start) * i / 72) for i in range(73))
    return [(0.5 + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles]


def _crescent() -> list[Point]:
    outer = [(0.5 * math.cos(a), 0.5 * math.sin(a)) for a in (math.radians(55 + 250 * i / 48) for i in range(49))]
    tip_x, tip_y = outer[-1]
    radius = math.hypot(tip_x - 0.32, tip_y)
    sweep = math.degrees(math.atan2(-tip_y, tip_x - 0.32))
    inner = [
        (0.32 + radius * math.cos(a), radius * math.sin(a))
        for a in (math.radians(360 - sweep - (360 - 2 * sweep) * i / 48) for i in range(49))
    ]
    return [(0.6 + x, 0.5 + y) for x, y in outer + inner]


_OUTLINES: dict[str, list[Point]] = {
    "circle": _ellipse(0.48, 0.48),
    "square": [(0.07, 0.07), (0.93, 0.07), (0.93, 0.93), (0.07, 0.93)],
    "triangle": [(0.5, 0.04), (0.98, 0.9), (0.02, 0.9)],
    "star": _star(),
    "heart": _heart(),
    "cross": [
        (0.34, 0.02), (0.66, 0.02), (0.66, 0.34), (0.98, 0.34), (0.98, 0.66), (0.66, 0.66),
        (0.66, 0.98), (0.34, 0.98), (0.34, 0.66), (0.02, 0.66), (0.02, 0.34), (0.34, 0.34),
    ],
    "diamond": [(0.5, 0.0), (0.84, 0.5), (0.5, 1.0), (0.16, 0.5)],
    "pentagon": _polygon(5),
    "crescent": _crescent(),
    "arrow": [(0.02, 0.36), (0.54, 0.36), (0.54, 0.1), (0.98, 0.5), (0.54, 0.9), (0.54, 0.64), (0.02, 0.64)],
    "ring": _ellipse(0.48, 0.48),
    "oval": _ellipse(0.5, 0.28),
    "semicircle": _ellipse(0.5, 0.5, 180, 360, cy=0.74),
}  # fmt: skip


def _mask(thing: Thing, side: int) -> Image.Image:
    """Coverage of a thing `side` px wide, mode L."""
    big = side * _OVERSAMPLING
    mask = Image.new("L", (big, big))
    draw = ImageDraw.Draw(mask)

    def outline(shrink: float = 0.0) -> list[Point]:
        scale = big * (1 - shrink)
        return [(big / 2 + (x - 0.5) * scale, big / 2 + (y - 0.5) * scale) for x, y in _OUTLINES[thing.shape]]

    if thing.fill == "outlined":
        draw.line([*outline(0.12), *outline(0.12)[:2]], fill=255, width=round(big * 0.08), joint="curve")
    else:
        draw.polygon(outline(), fill=255)
        if thing.fill == "striped":
            step = big // 7
            for y in range(step // 2, big, step):
                draw.rectangle((0, y, big, y + step * 0.42), fill=0)
    if thing.shape == "ring":
        hole = 0.5 if thing.fill == "outlined" else 0.42
        draw.polygon(outline(hole), fill=0)
        if thing.fill == "outlined":
            draw.line([*outline(hole), *outline(hole)[:2]], fill=255, width=round(big * 0.06), joint="curve")
    return mask.reduce(_OVERSAMPLING)


def _background(scene: Scene, rng: random.Random) -> Image.Image:
    base = BACKGROUNDS[scene.background][1]
    shade = tuple(v - 28 if sum(base) > 200 else v + 38 for v in base)
    picture = Image.new("RGB", (SIDE, SIDE), base)
    draw = ImageDraw.Draw(picture)
    step = rng.randrange(24, 36)
    if scene.pattern == "striped":
        for x in range(-rng.randrange(step), SIDE, step):
            draw.rectangle((x, 0, x + step // 2 - 1, SIDE), fill=shade)
    elif scene.pattern == "dotted":
        for x in range(0, SIDE + step, step):
            for y in range(0, SIDE + step, step):
                draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=shade)
    return picture


def draw(scene: Scene, placement: int) -> Image.Image:
    """The scene as an RGB picture of 256 × 256 px; `placement` seeds what the captions do not say."""
    rng = random.Random(placement)
    picture = _background(scene, rng)

    def put(thing: Thing, centre: Point, side: float) -> None:
        px = round(side)
        mask = _mask(thing, px)
        picture.paste(COLOURS[thing.colour][1], (round(centre[0] - px / 2), round(centre[1] - px / 2)), mask)

    def jitter(amount: float) -> float:
        return rng.uniform(-amount, amount)

    def side_of(thing: Thing) -> float:
        return rng.uniform(94, 112) if thing.size == "large" else rng.uniform(50, 62)

    first = scene.things[0]
    if scene.count > 1:
        gap, along, across = 47.0, SIDE / 2 + jitter(6), SIDE / 2 + jitter(50)
        side = rng.uniform(40, 46)
        for i in range(scene.count):
            at = along + gap * (i - (scene.count - 1) / 2)
            put(first, (at, across) if scene.place == "row" else (across, at), side)
    elif len(scene.things) == 1:
        x, y = POSITIONS[scene.place][1]
        put(first, (x * SIDE + jitter(8), y * SIDE + jitter(8)), side_of(first))
    elif scene.place == "inside":
        centre = (SIDE / 2 + jitter(30), SIDE / 2 + jitter(30))
        put(scene.things[1], centre, rng.uniform(165, 190))
        put(first, centre, rng.uniform(50, 60))
    else:
        before, after = (first, scene.things[1]) if scene.place in ("left of", "above") else scene.things[::-1]
        shift = jitter(30)
        for thing, at in ((before, SIDE * 0.26), (after, SIDE * 0.74)):
            main, cross = at + jitter(6), SIDE / 2 + shift + jitter(8)
            put(thing, (main, cross) if scene.place.endswith("of") else (cross, main), side_of(thing))
    return picture
