"""Captions: full ones tell scenes apart, short ones are true of many."""

from __future__ import annotations

import pytest

from training.scenes import describe, mentions, scenes


@pytest.mark.parametrize("language", ["en", "zh"])
def test_full_captions_tell_scenes_apart(language: str) -> None:
    captions: dict[str, str] = {}
    for scene, _ in scenes(3000, 3, "test"):
        assert len(set(describe(scene, language))) == 3
        for caption in describe(scene, language):
            assert captions.setdefault(caption, scene.key) == scene.key


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
