"""Scenes: the same for the same seed, and splits that do not leak."""

from __future__ import annotations

from training.scenes import BACKGROUNDS, COLOURS, SHAPES, UNSEEN_PAIRINGS, scenes


def test_enough_to_tell() -> None:
    assert len(SHAPES) >= 12
    assert len(COLOURS) >= 10
    assert len(BACKGROUNDS) >= 4


def test_the_same_seed_gives_the_same() -> None:
    first, again, other = (list(scenes(50, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_splits_do_not_leak() -> None:
    train = [scene for scene, _ in scenes(5000, 0, "train")]
    test = [scene for scene, _ in scenes(1000, 0, "test")]
    unseen = [scene for scene, _ in scenes(500, 0, "unseen")]
    assert not {s.key for s in train} & {s.key for s in test}
    assert not UNSEEN_PAIRINGS & {thing.pairing for s in train + test for thing in s.things}
    assert all(UNSEEN_PAIRINGS & {thing.pairing for thing in s.things} for s in unseen)
    assert {t.colour for s in train for t in s.things} == set(COLOURS)
    assert {t.shape for s in train for t in s.things} == set(SHAPES)
