"""Hard negatives from the structure of a scene: natural in both languages, and false of the picture."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dual_encoder import DualEncoder
from training.evaluation.probes import Probe, _negatives, probe_figures, probe_scenes, scene_probes
from training.scenes import Scene, Thing, describe, mentions, scenes

STAR, SQUARE = Thing("star", "red", "small", "solid"), Thing("square", "blue", "large", "solid")


def negatives(scene: Scene, wording: str = "short") -> dict[tuple[str, str], tuple[str, str]]:
    probes = scene_probes(scene, 0, random.Random(0))
    return {(p.kind, p.language): (p.caption, p.negatives[0]) for p in probes if p.wording == wording}


def test_two_things_side_by_side() -> None:
    found = negatives(Scene((STAR, SQUARE), 1, "left of", "white", "plain"))
    right = "a red star to the left of a blue square"
    assert found["swapped colours", "en"] == (right, "a blue star to the left of a red square")
    assert found["swapped relation: left/right", "en"] == (right, "a red star to the right of a blue square")
    assert found["swapped colours", "zh"] == ("红色星形在蓝色正方形左边", "蓝色星形在红色正方形左边")
    assert found["swapped relation: left/right", "zh"][1] == "红色星形在蓝色正方形右边"
    assert {kind for kind, _ in found} == {"swapped colours", "swapped relation: left/right", "shape", "colour"}


def test_what_is_inside_stays_small() -> None:
    found = negatives(Scene((STAR, SQUARE), 1, "inside", "white", "plain"), "full")
    for text in found["swapped relation: inside", "en"]:
        assert text.index("small") < text.index("large") or "with a small" in text
    assert "small blue square" in found["swapped relation: inside", "en"][1]


def test_counts() -> None:
    found = negatives(Scene((STAR,), 5, "row", "white", "plain"))
    assert found["count", "en"] == ("five red stars", "four red stars")
    assert found["count", "zh"] == ("五个红色星形", "四个红色星形")


def test_captions_that_could_be_true_are_left_out() -> None:
    alike = Scene((STAR, Thing("star", "blue", "small", "solid")), 1, "left of", "white", "plain")
    assert ("swapped colours", "en") not in negatives(alike)  # the same as turning the relation
    cyan = Scene((Thing("star", "cyan", "small", "solid"), SQUARE), 1, "above", "white", "plain")
    assert ("swapped colours", "en") not in negatives(cyan)
    rings = [Scene((Thing("ring", "red", "small", "outlined"),), 1, "top", "white", "plain")] * 50
    rng = random.Random(1)
    wrong = [p.negatives[0] for s in rings for p in scene_probes(s, 0, rng, ["en"]) if p.kind == "shape"]
    assert len(set(wrong)) > 5
    assert not any(" circle" in text for text in wrong)


def test_every_negative_is_false_and_differs_little() -> None:
    rng = random.Random(0)
    for scene, _ in scenes(400, 5, "test"):
        for probe in scene_probes(scene, 0, rng):
            true = [*describe(scene, probe.language), *mentions(scene, probe.language)]
            assert probe.negatives[0] not in true
            words, other = (sorted(t.replace("an ", "a ")) for t in (probe.caption, probe.negatives[0]))
            if probe.kind == "swapped colours":
                assert words == other  # the same words in another order
            if probe.wording == "full":
                assert probe.caption in true


@pytest.mark.parametrize("split", ["test", "unseen"])
def test_no_negative_is_given_away_by_an_unseen_pairing(split: str) -> None:
    rng = random.Random(0)
    kinds = set()
    for scene, _ in scenes(200, 5, split):
        for kind, wrong in _negatives(scene, rng):
            kinds.add(kind.split(":")[0])
            assert (wrong.split == "unseen") == (split == "unseen")
            assert all(thing.colour != wrong.background for thing in wrong.things)
    assert kinds == {"swapped colours", "swapped relation", "count", "shape", "colour"}


def test_a_split_that_is_none(encoder: DualEncoder) -> None:
    with pytest.raises(ValueError, match="no split 'val'; choose from train, test, unseen"):
        probe_scenes(encoder, 1, split="val")


def test_figures_by_hand(encoder: DualEncoder) -> None:
    texts = encoder.encode_texts(["a red star", "a blue circle"])
    probes = [
        Probe(0, "kind: one", "en", "short", "a red star", ("a blue circle",)),
        Probe(1, "kind: two", "en", "short", "a red star", ("a blue circle",)),
        Probe(0, "tie", "en", "", "a red star", ("a blue circle", "a red star")),
    ]
    figures = probe_figures(encoder, np.asarray(texts), probes)
    rows = {(r["probe"], r["wording"]): (r["count"], r["accuracy"]) for r in figures["probes"]}
    assert rows["kind", "all"] == rows["kind", "short"] == (2, 0.5)
    assert rows["kind: one", "all"] == (1, 1.0)
    assert rows["kind: two", "all"] == (1, 0.0)
    assert rows["tie", "all"] == (1, 0.0)
    assert figures["choices"] == 3


def test_the_bundled_model_tells_colours_and_numbers(encoder: DualEncoder) -> None:
    seen: list[int] = []
    figures = probe_scenes(encoder, 120, on_progress=lambda done, total: seen.append(done))
    assert seen[-1] == 120
    accuracy = {(r["probe"], r["language"]): r["accuracy"] for r in figures["probes"] if r["wording"] == "all"}
    for language in ("en", "zh"):
        assert accuracy["colour", language] > 0.9
        assert accuracy["count", language] > 0.9
        assert accuracy["swapped relation: inside", language] > 0.9
    only = probe_scenes(encoder, 10, language="zh")
    assert {r["language"] for r in only["probes"]} == {"zh"}
    assert only == probe_scenes(encoder, 10, language="zh")
    with pytest.raises(ValueError, match="language 'fr'"):
        probe_scenes(encoder, 10, language="fr")
    with pytest.raises(ValueError, match="count"):
        probe_scenes(encoder, 0)
