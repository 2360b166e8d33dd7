"""Pictures of simple scenes with English and Chinese captions, any number of them, the same for the same seed.

A scene is one shape, several alike, or two shapes in a relation, on a background. `describe` says everything that sets
a scene apart, so that its captions find it again among others; `Scene.key` is that description without the wording, and
decides the split: training never sees a test scene, nor any colour–shape pairing of the `unseen` split.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, get_args

from PIL import Image, ImageDraw

Split = Literal["train", "test", "unseen"]
Language = Literal["en", "zh"]
SPLITS: tuple[str, ...] = get_args(Split)
LANGUAGES: tuple[str, ...] = get_args(Language)

SIDE = 256  # px
_OVERSAMPLING = 4  # shapes are drawn this much larger and averaged down: anti-aliasing
_FILES_PER_FOLDER = 1000

Point = tuple[float, float]
RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Word:
    """One notion in both languages; `plural` is English only."""

    en: str
    zh: str
    plural: str = ""


SHAPES = {
    "circle": Word("circle", "圆形", "circles"),
    "square": Word("square", "正方形", "squares"),
    "triangle": Word("triangle", "三角形", "triangles"),
    "star": Word("star", "星形", "stars"),
    "heart": Word("heart", "心形", "hearts"),
    "cross": Word("cross", "十字形", "crosses"),
    "diamond": Word("diamond", "菱形", "diamonds"),
    "pentagon": Word("pentagon", "五边形", "pentagons"),
    "crescent": Word("crescent", "月牙形", "crescents"),
    "arrow": Word("arrow", "箭头", "arrows"),
    "ring": Word("ring", "圆环", "rings"),
    "oval": Word("oval", "椭圆形", "ovals"),
    "semicircle": Word("semicircle", "半圆形", "semicircles"),
}
COLOURS: dict[str, tuple[Word, RGB]] = {
    "red": (Word("red", "红色"), (220, 30, 35)),
    "orange": (Word("orange", "橙色"), (250, 140, 20)),
    "yellow": (Word("yellow", "黄色"), (250, 220, 40)),
    "green": (Word("green", "绿色"), (35, 150, 60)),
    "cyan": (Word("cyan", "青色"), (60, 205, 215)),
    "blue": (Word("blue", "蓝色"), (35, 75, 215)),
    "purple": (Word("purple", "紫色"), (130, 45, 165)),
    "pink": (Word("pink", "粉色"), (250, 130, 185)),
    "brown": (Word("brown", "棕色"), (125, 75, 35)),
    "black": (Word("black", "黑色"), (15, 15, 15)),
    "white": (Word("white", "白色"), (252, 252, 252)),
}
BACKGROUNDS: dict[str, tuple[Word, RGB]] = {
    "white": COLOURS["white"],
    "black": COLOURS["black"],
    "grey": (Word("grey", "灰色"), (150, 150, 155)),
    "beige": (Word("beige", "米色"), (225, 205, 165)),
}
PATTERNS = {"plain": Word("", ""), "striped": Word("striped ", "条纹"), "dotted": Word("dotted ", "圆点")}
FILLS = {"solid": Word("", ""), "outlined": Word("outlined ", "空心"), "striped": Word("striped ", "条纹")}
SIZES = {"small": Word("small", "小号"), "large": Word("large", "大号")}
POSITIONS = {
    "top left": (Word("at the top left", "左上方"), (0.25, 0.25)),
    "top": (Word("at the top", "上方"), (0.5, 0.25)),
    "top right": (Word("at the top right", "右上方"), (0.75, 0.25)),
    "left": (Word("on the left", "左侧"), (0.25, 0.5)),
    "centre": (Word("in the centre", "中央"), (0.5, 0.5)),
    "right": (Word("on the right", "右侧"), (0.75, 0.5)),
    "bottom left": (Word("at the bottom left", "左下方"), (0.25, 0.75)),
    "bottom": (Word("at the bottom", "下方"), (0.5, 0.75)),
    "bottom right": (Word("at the bottom right", "右下方"), (0.75, 0.75)),
}
RELATIONS = {
    "left of": Word("to the left of", "左边"),
    "right of": Word("to the right of", "右边"),
    "above": Word("above", "上面"),
    "below": Word("below", "下面"),
    "inside": Word("inside", "里面"),
}
_INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
LAYOUTS = {"row": Word("in a row", "排成一行"), "column": Word("in a column", "排成一列")}
NUMBERS = {2: Word("two", "两个"), 3: Word("three", "三个"), 4: Word("four", "四个"), 5: Word("five", "五个")}

# Every seventh pairing or so; each colour and each shape still occurs in training with most partners.
UNSEEN_PAIRINGS = frozenset(
    (colour, shape) for i, colour in enumerate(COLOURS) for j, shape in enumerate(SHAPES) if (3 * i + j) % 7 == 0
)


@dataclass(frozen=True)
class Thing:
    """A coloured shape."""

    shape: str
    colour: str
    size: str
    fill: str

    @property
    def pairing(self) -> tuple[str, str]:
        return self.colour, self.shape


@dataclass(frozen=True)
class Scene:
    """What a picture shows. `place` is a position (one thing), a layout (several alike) or a relation (two things)."""

    things: tuple[Thing, ...]
    count: int
    place: str
    background: str
    pattern: str

    @property
    def key(self) -> str:
        """Equal for scenes that the same full caption describes: `A left of B` is `B right of A`."""
        things, place = self.things, self.place
        if place in ("right of", "below"):
            things, place = things[::-1], _INVERSE[place]
        return repr((things, self.count, place, self.background, self.pattern))

    @property
    def split(self) -> str:
        if any(thing.pairing in UNSEEN_PAIRINGS for thing in self.things):
            return "unseen"
        return "test" if hashlib.sha256(self.key.encode()).digest()[0] < 26 else "train"


def imagine(rng: random.Random) -> Scene:
    """Draw one scene at random: 3 in 10 show one thing, 2 in 10 several alike, 5 in 10 a relation."""
    background = rng.choice(list(BACKGROUNDS))
    pattern = rng.choices(list(PATTERNS), (4, 1, 1))[0]
    colours = [c for c in COLOURS if c != background]

    def thing(size: str = "") -> Thing:
        fill = rng.choices(list(FILLS), (4, 1, 1))[0]
        return Thing(rng.choice(list(SHAPES)), rng.choice(colours), size or rng.choice(list(SIZES)), fill)

    kind = rng.random()
    if kind < 0.3:
        return Scene((thing(),), 1, rng.choice(list(POSITIONS)), background, pattern)
    if kind < 0.5:
        return Scene((thing("small"),), rng.choice(list(NUMBERS)), rng.choice(list(LAYOUTS)), background, pattern)
    relation = rng.choice(list(RELATIONS))
    if relation == "inside":
        inner, outer = thing("small"), thing("large")
        while outer.colour == inner.colour:
            outer = thing("large")
        return Scene((inner, outer), 1, relation, background, pattern)
    first, second = thing(), thing()
    while second.pairing == first.pairing:
        second = thing()
    return Scene((first, second), 1, relation, background, pattern)


def scenes(count: int, seed: int, split: str = "train") -> Iterator[tuple[Scene, int]]:
    """Yield `count` scenes of the split with distinct keys, each with the seed that places it. Raises ValueError."""
    if split not in SPLITS:
        raise ValueError(f"scenes have no split {split!r}; choose from {', '.join(SPLITS)}")
    seen: set[bytes] = set()
    rng = random.Random(f"{seed}/{split}")
    while len(seen) < count:
        scene = imagine(rng)
        placement = rng.getrandbits(48)
        digest = hashlib.blake2b(scene.key.encode(), digest_size=12).digest()
        if scene.split == split and digest not in seen:
            seen.add(digest)
            yield scene, placement


# --- captions ---------------------------------------------------------------------------------------------------------


def describe(scene: Scene, language: str) -> list[str]:
    """Three wordings of everything that sets the scene apart."""
    return _describe_en(scene) if language == "en" else _describe_zh(scene)


def mentions(scene: Scene, language: str) -> list[str]:
    """Every short caption of these forms that is true of the scene, the way people type: each fits many scenes."""
    short = [text for thing in scene.things for text in _mention_thing(scene, thing, language)]
    if len(scene.things) == 2:
        short += _mention_both(scene, language)
    return list(dict.fromkeys(short))


def _mention_thing(scene: Scene, thing: Thing, language: str) -> list[str]:
    colour, shape, ground = COLOURS[thing.colour][0], SHAPES[thing.shape], BACKGROUNDS[scene.background][0]
    if language == "zh":  # which has no plural: a short caption without a number is true of one and of several
        named = f"{colour.zh}{shape.zh}"
        counted = [f"{NUMBERS[scene.count].zh}{w}" for w in (named, shape.zh)] if scene.count > 1 else [f"一个{named}"]
        return [*counted, named, shape.zh, f"{ground.zh}背景上的{named}"]
    if scene.count > 1:
        number, named = NUMBERS[scene.count].en, f"{colour.en} {shape.plural}"
        return [f"{number} {named}", f"{number} {shape.plural}", named, f"{named} on a {ground.en} background"]
    named = f"{colour.en} {shape.en}"
    return [_article(named), named, _article(shape.en), f"{_article(named)} on a {ground.en} background"]


def _mention_both(scene: Scene, language: str) -> list[str]:
    pairs = [(scene.things, scene.place)]
    if inverse := _INVERSE.get(scene.place):
        pairs.append((scene.things[::-1], inverse))
    texts = []
    for (one, other), place in pairs:
        a, b = ((COLOURS[t.colour][0], SHAPES[t.shape]) for t in (one, other))
        if language == "zh":
            first, second = (f"{colour.zh}{shape.zh}" for colour, shape in (a, b))
            texts += [f"{first}在{second}{RELATIONS[place].zh}", f"{first}和{second}"]
        else:
            first, second = (_article(f"{colour.en} {shape.en}") for colour, shape in (a, b))
            texts += [f"{first} {RELATIONS[place].en} {second}", f"{first} and {second}"]
    return texts


def mislead(scene: Scene, language: str, rng: random.Random) -> list[str]:
    """Captions that are false of the scene in one respect alone: a long or a short one for each respect.

    Made from the scene with that respect changed, minus what is true of the scene itself. None shows an unseen pairing
    or describes a test scene.
    """
    true = {*describe(scene, language), *mentions(scene, language)}
    texts = []
    for other in _altered(scene, rng):
        if other.split != "train":
            continue
        long = [text for text in describe(other, language) if text not in true]
        short = [text for text in mentions(other, language) if text not in true]
        texts.append(rng.choice(rng.choice([part for part in (long, short) if part])))
    return texts


def _altered(scene: Scene, rng: random.Random) -> Iterator[Scene]:
    """The scene with one respect changed, one scene a respect."""
    things, place = scene.things, scene.place
    changed = rng.randrange(len(things))

    def with_thing(**respects: str) -> Scene:
        new = replace(things[changed], **respects)
        return replace(scene, things=tuple(new if i == changed else t for i, t in enumerate(things)))

    yield with_thing(shape=rng.choice([shape for shape in SHAPES if shape != things[changed].shape]))
    colours = [c for c in COLOURS if c not in (scene.background, *(thing.colour for thing in things))]
    yield with_thing(colour=rng.choice(colours))
    if len(things) == 2:
        one, other = things
        yield replace(scene, things=(other, one))  # the relation turned round
        if one.colour != other.colour:
            yield replace(scene, things=(replace(one, colour=other.colour), replace(other, colour=one.colour)))
    else:
        places = LAYOUTS if scene.count > 1 else POSITIONS
        yield replace(scene, place=rng.choice([name for name in places if name != place]))
        if scene.count > 1:
            yield replace(scene, count=rng.choice([number for number in NUMBERS if number != scene.count]))


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _thing_en(thing: Thing, plural: bool = False) -> str:
    colour, shape = COLOURS[thing.colour][0].en, SHAPES[thing.shape]
    return f"{SIZES[thing.size].en} {FILLS[thing.fill].en}{colour} {shape.plural if plural else shape.en}"


def _thing_zh(thing: Thing) -> str:
    return f"{SIZES[thing.size].zh}{COLOURS[thing.colour][0].zh}{FILLS[thing.fill].zh}{SHAPES[thing.shape].zh}"


def _describe_en(scene: Scene) -> list[str]:
    ground = f"{_article(PATTERNS[scene.pattern].en + BACKGROUNDS[scene.background][0].en)} background"
    first = scene.things[0]
    if scene.count > 1:
        number, things, layout = NUMBERS[scene.count].en, _thing_en(first, plural=True), LAYOUTS[scene.place].en
        return [
            f"{number} {things} {layout} on {ground}",
            f"on {ground}, {number} {things} {layout}",
            f"a picture of {number} {things} arranged {layout}, {ground}",
        ]
    if len(scene.things) == 1:
        one, where = _article(_thing_en(first)), POSITIONS[scene.place][0].en
        return [f"{one} {where} on {ground}", f"{one} on {ground}, {where}", f"a picture of {one}, {where}, {ground}"]
    one, other = _article(_thing_en(first)), _article(_thing_en(scene.things[1]))
    relation = RELATIONS[scene.place].en
    if inverse := _INVERSE.get(scene.place):
        turned = f"{other} {RELATIONS[inverse].en} {one} on {ground}"
    else:
        turned = f"{other} with {one} inside it on {ground}"
    return [f"{one} {relation} {other} on {ground}", turned, f"on {ground}, {one} {relation} {other}"]


def _describe_zh(scene: Scene) -> list[str]:
    ground = f"{BACKGROUNDS[scene.background][0].zh}{PATTERNS[scene.pattern].zh}背景"
    first = _thing_zh(scene.things[0])
    if scene.count > 1:
        number, layout = NUMBERS[scene.count].zh, LAYOUTS[scene.place].zh
        return [
            f"{ground}上{number}{first}{layout}",
            f"{number}{first}{layout}，{ground}",
            f"{ground}，{layout}的{number}{first}",
        ]
    if len(scene.things) == 1:
        where = POSITIONS[scene.place][0].zh
        return [f"{ground}{where}有一个{first}", f"一个{first}在{where}，{ground}", f"{where}的{first}，{ground}"]
    other, relation = _thing_zh(scene.things[1]), RELATIONS[scene.place].zh
    if inverse := _INVERSE.get(scene.place):
        turned = f"{other}在{first}{RELATIONS[inverse].zh}，{ground}"
    else:
        turned = f"{other}里面有{first}，{ground}"
    return [f"{ground}上{first}在{other}{relation}", turned, f"{first}在{other}{relation}，{ground}"]


# --- drawing ----------------------------------------------------------------------------------------------------------


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


# --- files ------------------------------------------------------------------------------------------------------------


def _write(job: tuple[Path, list[tuple[str, Scene, int]]]) -> None:
    folder, items = job
    folder.mkdir(parents=True, exist_ok=True)
    for name, scene, placement in items:
        draw(scene, placement).save(folder / name, quality=92, subsampling=0)


def write_scenes(
    out: Path,
    count: int,
    seed: int,
    split: str = "train",
    languages: Sequence[str] = LANGUAGES,
    workers: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> Path:
    """Write `count` scenes as JPEG under `out/images` and `out/captions.jsonl`, a table the indexer and training read.

    Each row has `image`, `caption` (a list) and `language` (one for each caption), and what the scene shows as
    metadata. Training rows also have all their `mentions`, so that training can tell which captions
    are true of several pictures. Returns the table's path; it is written last.
    """
    for name, value, allowed in [("split", [split], SPLITS), ("language", languages, LANGUAGES)]:
        if wrong := [v for v in value if v not in allowed]:
            raise ValueError(f"unknown {name} {wrong[0]!r}; choose from {', '.join(allowed)}")
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    out.mkdir(parents=True, exist_ok=True)
    table, unfinished = out / "captions.jsonl", out / "captions.jsonl.tmp"
    table.unlink(missing_ok=True)  # it would tell of other pictures
    stream = scenes(count, seed, split)
    done = 0
    with unfinished.open("w", encoding="utf-8") as rows, _pool(workers) as pool:

        def jobs() -> Iterator[tuple[Path, list[tuple[str, Scene, int]]]]:
            folder = 0
            while chunk := list(islice(stream, _FILES_PER_FOLDER)):
                items = []
                for i, (scene, placement) in enumerate(chunk):
                    name = f"{folder * _FILES_PER_FOLDER + i:07d}.jpg"
                    items.append((name, scene, placement))
                    rows.write(
                        json.dumps(_row(f"images/{folder:04d}/{name}", scene, split, languages), ensure_ascii=False)
                    )
                    rows.write("\n")
                yield out / "images" / f"{folder:04d}", items
                folder += 1

        for size, _ in zip(_chunk_sizes(count), pool.map(_write, jobs()), strict=True):
            done += size
            if on_progress:
                on_progress(done)
    unfinished.replace(table)
    return table


def _pool(workers: int) -> Executor:
    # Not forked: a process with threads, as any that has loaded a model, may fork a child that never runs.
    if workers > 1:
        return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    return ThreadPoolExecutor(1)


def _chunk_sizes(count: int) -> Iterator[int]:
    for start in range(0, count, _FILES_PER_FOLDER):
        yield min(_FILES_PER_FOLDER, count - start)


def _row(image: str, scene: Scene, split: str, languages: Sequence[str]) -> dict[str, object]:
    captions = [(text, lang) for lang in languages for text in describe(scene, lang)]
    if split == "train":
        captions += [(text, lang) for lang in languages for text in mentions(scene, lang)]
    first = scene.things[0]
    negatives = {}
    if split == "train":
        rng = random.Random(f"{image}/{scene.key}")
        negatives = {"negatives": [text for lang in languages for text in mislead(scene, lang, rng)]}
    return {
        "image": image,
        "caption": [text for text, _ in captions],
        "language": [lang for _, lang in captions],
        **negatives,
        "shape": first.shape,
        "colour": first.colour,
        "count": scene.count * len(scene.things),
        "place": scene.place,
        "background": scene.background,
    }
