"""Templates by name and from files."""

from __future__ import annotations

from pathlib import Path

import pytest
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

from training.evaluation import templates as module
from training.evaluation.templates import CHINESE, SHORT, templates


def test_open_clips_own() -> None:
    assert [t.replace("{}", "dog") for t in templates("openai", [])] == [t("dog") for t in OPENAI_IMAGENET_TEMPLATES]
    assert [t.replace("{}", "dog") for t in templates("simple", [])] == [t("dog") for t in SIMPLE_IMAGENET_TEMPLATES]


def test_the_default_follows_language_and_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert templates(None, ["猫", "狗", "CD"]) == list(CHINESE)
    assert len(templates(None, ["cat", "dog"])) == 80
    monkeypatch.setattr(module, "_open_clip_sets", dict)
    assert templates(None, ["cat"]) == list(SHORT)
    with pytest.raises(ValueError, match="not installed"):
        templates("openai", ["cat"])


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("a {} here\n\n  {} \n", "utf-8")
    assert templates(str(path), []) == ["a {} here", "{}"]
    path.write_text("a dog\n")
    with pytest.raises(ValueError, match=r"'a dog' has no \{\}"):
        templates(str(path), [])
    path.write_text("\n")
    with pytest.raises(ValueError, match="no templates"):
        templates(str(path), [])
    path.write_bytes(b"\xff\xfe\x00{}")
    with pytest.raises(ValueError, match="UTF-8"):
        templates(str(path), [])
    with pytest.raises(ValueError, match=r"'opneai'.*one of openai"):
        templates("opneai", [])
