"""Sentences that a class name is put into, `{}` standing for the name."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

SHORT = (
    "a photo of a {}.",
    "a picture of a {}.",
    "an image of a {}.",
    "a close-up of a {}.",
    "a drawing of a {}.",
    "{}",
)
CHINESE = ("一张{}的照片。", "一幅{}的图片。", "{}的特写。", "图中有{}。", "画面中央是{}。", "一幅{}的画。", "{}")
NAMED = ("openai", "simple", "short", "zh", "none")


def templates(choice: str | None, names: Sequence[str]) -> list[str]:
    """The templates that `choice` names: openai (open_clip's 80), simple (its 7), short, zh, none, or a file of them.

    By default zh for class names in Chinese characters, else openai, or short where open_clip is not installed.
    Raises ValueError.
    """
    if choice is None:
        choice = "zh" if _mostly_chinese(names) else "openai" if _open_clip_sets() else "short"
    if choice in ("openai", "simple"):
        sets = _open_clip_sets()
        if choice not in sets:
            raise ValueError(
                f"templates {choice!r} are open_clip's, which is not installed: pip install 'crossmodal[train]'"
            )
        return sets[choice]
    if choice in NAMED:
        return {"short": list(SHORT), "zh": list(CHINESE), "none": ["{}"]}[choice]
    return _read(Path(choice))


def _open_clip_sets() -> dict[str, list[str]]:
    try:
        from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES
    except ImportError:
        return {}
    sets = {"openai": OPENAI_IMAGENET_TEMPLATES, "simple": SIMPLE_IMAGENET_TEMPLATES}
    return {name: [template("{}") for template in functions] for name, functions in sets.items()}


def _read(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise ValueError(f"templates {str(path)!r}: {error.strerror}; a file, or one of {', '.join(NAMED)}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text") from None
    if not lines:
        raise ValueError(f"{path}: no templates in it")
    if wrong := [line for line in lines if "{}" not in line]:
        raise ValueError(f"{path}: template {wrong[0]!r} has no {{}} for the class name")
    return lines


def _mostly_chinese(names: Sequence[str]) -> bool:
    chinese = [any(unicodedata.name(c, "").startswith("CJK UNIFIED") for c in name) for name in names]
    return sum(chinese) > len(chinese) / 2
