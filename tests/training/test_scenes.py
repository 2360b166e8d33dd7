"""Scenes: the same for the same seed, and splits that do not leak."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from training.scenes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    UNSEEN_PAIRINGS,
    describe,
    draw,
    mentions,
    scenes,
    write_scenes,
)


def test_enough_to_tell() -> None:
    assert len(SHAPES) >= 12
    assert len(COLOURS) >= 10
    assert len(BACKGROUNDS) >= 4


def test_the_same_seed_draws_the_same() -> None:
    first, again, other = (list(scenes(50, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert draw(*first[0]).tobytes() == draw(*again[0]).tobytes()
    assert draw(*first[0]).size == (256, 256)


def test_splits_do_not_leak() -> None:
    train = [scene for scene, _ in scenes(5000, 0, "train")]
    test = [scene for scene, _ in scenes(1000, 0, "test")]
    unseen = [scene for scene, _ in scenes(500, 0, "unseen")]
    assert not {s.key for s in train} & {s.key for s in test}
    assert not UNSEEN_PAIRINGS & {thing.pairing for s in train + test for thing in s.things}
    assert all(UNSEEN_PAIRINGS & {thing.pairing for thing in s.things} for s in unseen)
    assert {t.colour for s in train for t in s.things} == set(COLOURS)
    assert {t.shape for s in train for t in s.things} == set(SHAPES)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_full_captions_tell_scenes_apart(language: str) -> None:
    captions: dict[str, str] = {}
    for scene, _ in scenes(3000, 3, "test"):
        assert len(set(describe(scene, language))) == 3
        for caption in describe(scene, language):
            assert captions.setdefault(caption, scene.key) == scene.key


def test_every_scene_shows_its_colour() -> None:
    for scene, placement in scenes(200, 4):
        shown = draw(scene, placement).getcolors(256 * 256) or []
        for thing in scene.things:
            assert sum(n for n, colour in shown if colour == COLOURS[thing.colour][1]) > 20, scene


def test_files(tmp_path: Path) -> None:
    table = write_scenes(tmp_path, 12, 0, "train", ["zh"])
    rows = [json.loads(line) for line in table.read_text("utf-8").splitlines()]
    assert len(rows) == 12
    assert set(rows[0]["language"]) == {"zh"}
    assert Image.open(tmp_path / rows[-1]["image"]).size == (256, 256)
    for wrong in ({"split": "x"}, {"languages": ["fr"]}, {"count": 0}):
        with pytest.raises(ValueError, match=r"x|fr|0"):
            write_scenes(tmp_path, **{"count": 1, "seed": 0, **wrong})  # type: ignore[arg-type]

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path, 12, 1, on_progress=stop)
    assert not table.exists()  # the old one would tell of other pictures


@pytest.mark.parametrize("language", ["en", "zh"])
def test_mentions_are_short_and_shared(language: str) -> None:
    owners: dict[str, int] = {}
    for scene, _ in scenes(2000, 3):
        short = mentions(scene, language)
        assert len(set(short)) == len(short) >= 4
        for text in short:
            owners[text] = owners.get(text, 0) + 1
    assert sum(count > 1 for count in owners.values()) > 500
    assert owners["a star" if language == "en" else "星形"] > 50
