"""Pictures of simple scenes with English and Chinese captions, any number of them, the same for the same seed.

A scene is one shape, several alike, or two shapes in a relation, on a background. `describe` says everything that sets
a scene apart, so that its captions find it again among others; `Scene.key` is that description without the wording, and
decides the split: training never sees a test scene, nor any colour–shape pairing of the `unseen` split.
"""

from __future__ import annotations

from training.scenes.captions import describe, mentions
from training.scenes.drawing import draw
from training.scenes.files import write_scenes
from training.scenes.scene import (
    BACKGROUNDS,
    COLOURS,
    LANGUAGES,
    NUMBERS,
    RELATIONS,
    SHAPES,
    UNSEEN_PAIRINGS,
    Scene,
    Thing,
    scenes,
)

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "LANGUAGES",
    "NUMBERS",
    "RELATIONS",
    "SHAPES",
    "UNSEEN_PAIRINGS",
    "Scene",
    "Thing",
    "describe",
    "draw",
    "mentions",
    "scenes",
    "write_scenes",
]
