"""Scenes and the words for what they show, in English and Chinese; which split each belongs to."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

Split = Literal["train", "test", "unseen"]
Language = Literal["en", "zh"]
SPLITS: tuple[str, ...] = get_args(Split)
LANGUAGES: tuple[str, ...] = get_args(Language)

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
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
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
            things, place = things[::-1], INVERSE[place]
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
