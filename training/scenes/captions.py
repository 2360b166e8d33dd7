"""What can be said of a scene, in full and in short, and what is nearly true of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from training.scenes.scene import (
    BACKGROUNDS,
    COLOURS,
    FILLS,
    INVERSE,
    LAYOUTS,
    NUMBERS,
    PATTERNS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
)


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
    if inverse := INVERSE.get(scene.place):
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
    if inverse := INVERSE.get(scene.place):
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
    if inverse := INVERSE.get(scene.place):
        turned = f"{other}在{first}{RELATIONS[inverse].zh}，{ground}"
    else:
        turned = f"{other}里面有{first}，{ground}"
    return [f"{ground}上{first}在{other}{relation}", turned, f"{first}在{other}{relation}，{ground}"]
