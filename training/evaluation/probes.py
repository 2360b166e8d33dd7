"""Hard-negative probes: does a picture score higher with its caption than with one that says nearly the same, wrongly?

Drawn scenes give probes for what a dual encoder is known to blur (Yuksekgonul et al., When and Why Vision-Language
Models Behave like Bags-of-Words, 2023): which colour goes with which shape, which thing is on which side, how many.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dual_encoder import DualEncoder
from training.evaluation.bootstrap import mean_intervals
from training.scenes import (
    COLOURS,
    LANGUAGES,
    NUMBERS,
    RELATIONS,
    SHAPES,
    Scene,
    describe,
    draw,
    mentions,
    scenes,
)

COUNT = 1000
SEED = 11
_BATCH = 32
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

# A ring is a circle with a hole, cyan is a light blue, and 青 may be a green: who says so is not really wrong.
_ALIKE = [{"circle", "ring"}, {"cyan", "blue"}, {"cyan", "green"}]


@dataclass(frozen=True)
class Probe:
    """Picture number `image` with its right caption and one or more wrong ones."""

    image: int
    kind: str
    language: str
    wording: str
    caption: str
    negatives: tuple[str, ...]


def scene_probes(scene: Scene, image: int, rng: random.Random, languages: Sequence[str] = LANGUAGES) -> list[Probe]:
    """Every probe that a scene allows, in a full and a short wording; right and wrong captions are worded alike."""
    found = []
    true = {text for language in languages for text in (*describe(scene, language), *mentions(scene, language))}
    for kind, wrong in _negatives(scene, rng):
        way = rng.randrange(3)
        for language in languages:
            full = describe(scene, language)[way], describe(wrong, language)[way]
            short = _short(scene, language), _short(wrong, language)
            for wording, (right, negative) in (("full", full), ("short", short)):
                if negative not in true:
                    found.append(Probe(image, kind, language, wording, right, (negative,)))
    return found


def _short(scene: Scene, language: str) -> str:
    """Colours, shapes and their relation or number; neither sizes nor fills nor the background."""
    if scene.count > 1:
        thing, number = scene.things[0], NUMBERS[scene.count]
        if language == "zh":
            return f"{number.zh}{COLOURS[thing.colour][0].zh}{SHAPES[thing.shape].zh}"
        return f"{number.en} {COLOURS[thing.colour][0].en} {SHAPES[thing.shape].plural}"
    if language == "zh":
        named = [f"{COLOURS[t.colour][0].zh}{SHAPES[t.shape].zh}" for t in scene.things]
        return f"{named[0]}在{named[1]}{RELATIONS[scene.place].zh}" if len(named) == 2 else named[0]
    words = [f"{COLOURS[t.colour][0].en} {SHAPES[t.shape].en}" for t in scene.things]
    named = [f"{'an' if w[0] in 'aeiou' else 'a'} {w}" for w in words]
    return f" {RELATIONS[scene.place].en} ".join(named) if len(named) == 2 else named[0]


def _negatives(scene: Scene, rng: random.Random) -> Iterator[tuple[str, Scene]]:
    """Scenes that differ in one respect; both have an unseen pairing or neither, or it could give one away."""

    def fair(wrong: Scene) -> bool:
        return (wrong.split == "unseen") == (scene.split == "unseen")

    first = scene.things[0]
    if len(scene.things) == 2:
        second = scene.things[1]
        if first.shape != second.shape and not _same(first.colour, second.colour):
            swapped = replace(
                scene, things=(replace(first, colour=second.colour), replace(second, colour=first.colour))
            )
            if fair(swapped):
                yield "swapped colours", swapped
        if opposite := _OPPOSITE.get(scene.place):
            axis = "left/right" if scene.place.endswith("of") else "above/below"
            yield f"swapped relation: {axis}", replace(scene, place=opposite)
        else:
            # What is inside stays the small one, or the words alone would give the wrong caption away.
            turned = (replace(second, size=first.size), replace(first, size=second.size))
            yield "swapped relation: inside", replace(scene, things=turned)
    if scene.count > 1:
        yield "count", replace(scene, count=rng.choice([n for n in (scene.count - 1, scene.count + 1) if n in NUMBERS]))
    at = rng.randrange(len(scene.things))
    for respect, words in (("shape", SHAPES), ("colour", COLOURS)):
        taken = [getattr(thing, respect) for thing in scene.things]
        taken += [scene.background] if respect == "colour" else []
        others = [
            replace(scene, things=(*scene.things[:at], wrong, *scene.things[at + 1 :]))
            for wrong in (replace(scene.things[at], **{respect: word}) for word in words)
            if not any(_same(getattr(wrong, respect), word) for word in taken)
        ]
        if fitting := [other for other in others if fair(other)]:
            yield respect, rng.choice(fitting)


def _same(one: str, other: str) -> bool:
    return one == other or {one, other} in _ALIKE


def probe_scenes(
    encoder: DualEncoder,
    count: int = COUNT,
    seed: int = SEED,
    split: str = "test",
    language: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Draw `count` scenes and probe the encoder with them. Raises ValueError."""
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    if language is not None and language not in LANGUAGES:
        raise ValueError(f"scenes have no captions in language {language!r}; choose from {', '.join(LANGUAGES)}")
    rng = random.Random(f"probes/{seed}")
    probes: list[Probe] = []
    vectors = np.empty((count, encoder.dim), dtype=np.float32)
    pictures = []
    for number, (scene, placement) in enumerate(scenes(count, seed, split)):
        probes += scene_probes(scene, number, rng, LANGUAGES if language is None else [language])
        pictures.append(draw(scene, placement))
        if len(pictures) == _BATCH or number == count - 1:
            vectors[number + 1 - len(pictures) : number + 1] = encoder.encode_images(pictures)
            pictures = []
            if on_progress:
                on_progress(number + 1, count)
    return {"scenes": count, "seed": seed, "split": split, **probe_figures(encoder, vectors, probes)}


def probe_figures(encoder: DualEncoder, images: NDArray[np.float32], probes: Sequence[Probe]) -> dict[str, Any]:
    """Accuracy of `probes` about pictures with vectors `images` (n, dim), whole and by kind, language and wording.

    A probe is passed if the right caption scores strictly higher than every wrong one.
    """
    texts = sorted({text for probe in probes for text in (probe.caption, *probe.negatives)})
    row = {text: number for number, text in enumerate(texts)}
    vectors = encoder.encode_texts(texts)

    def score(probe: Probe, text: str) -> float:
        return float(vectors[row[text]] @ images[probe.image])

    passed = np.asarray([all(score(p, p.caption) > score(p, n) for n in p.negatives) for p in probes], dtype=np.float64)
    choices = 1 + max(len(probe.negatives) for probe in probes)
    return {"choices": choices, "all": _figures(probes, passed), "probes": _table(probes, passed)}


def _table(probes: Sequence[Probe], passed: NDArray[np.float64]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for number, probe in enumerate(probes):
        kinds = [probe.kind, probe.kind.split(":")[0]] if ":" in probe.kind else [probe.kind]
        for kind in kinds:
            groups[kind, probe.language, "all"].append(number)
            if probe.wording:
                groups[kind, probe.language, probe.wording].append(number)
    rows = []
    for kind, language, wording in sorted(groups, key=lambda g: (g[0], g[1], g[2] != "all", g[2])):
        members = groups[kind, language, wording]
        figures = _figures([probes[i] for i in members], passed[members])
        rows.append({"probe": kind, "language": language, "wording": wording, **figures})
    return rows


def _figures(probes: Sequence[Probe], passed: NDArray[np.float64]) -> dict[str, Any]:
    (low, high), *_ = mean_intervals(passed[:, None], np.asarray([probe.image for probe in probes]))
    return {"count": len(probes), "accuracy": round(float(passed.mean()), 4), "interval": [low, high]}
