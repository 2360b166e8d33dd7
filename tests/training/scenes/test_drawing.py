"""Pictures: the same for the same placement, and everything is seen."""

from __future__ import annotations

from training.scenes import COLOURS, draw, scenes


def test_the_same_placement_draws_the_same() -> None:
    (scene, placement), *_ = scenes(1, 1)
    assert draw(scene, placement).tobytes() == draw(scene, placement).tobytes()
    assert draw(scene, placement).size == (256, 256)


def test_every_scene_shows_its_colour() -> None:
    for scene, placement in scenes(200, 4):
        shown = draw(scene, placement).getcolors(256 * 256) or []
        for thing in scene.things:
            assert sum(n for n, colour in shown if colour == COLOURS[thing.colour][1]) > 20, scene
