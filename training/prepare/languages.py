"""The language of a caption by its script: `zh`, `en` or `other`.

Honest only about scripts: `en` is any text in Latin letters, whatever the language. A statistical detector was tried
(py3langid 0.4): it took "two cats" for Polish and "girl" for Icelandic, so captions are too short for it.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from typing import Any


def detect_language(text: str) -> str:
    """`zh`: at least as many Han characters as Latin words and no kana or hangul; `en`: Latin letters; else `other`."""
    han = latin_words = other = 0
    in_word = False
    for character in text:
        script = _script(character)
        if script == "latin":
            latin_words += not in_word
        han += script == "han"
        other += script == "other"
        in_word = script == "latin"
    if other > max(han, latin_words) or (han and other and latin_words < other + han):  # kana among Han: Japanese
        return "other"
    if han and han >= latin_words:
        return "zh"
    return "en" if latin_words else "other"


def _script(character: str) -> str:
    if character.isascii():
        return "latin" if character.isalpha() else ""
    code = ord(character)
    if 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0x20000 <= code <= 0x323AF or 0xF900 <= code <= 0xFAFF:
        return "han"
    if not character.isalpha():
        return ""
    return "latin" if unicodedata.name(character, "").startswith(("LATIN", "FULLWIDTH LATIN")) else "other"


def stated_languages(metadata: dict[str, Any], captions: int) -> list[str | None]:
    """What the metadata says: `languages` or `language`, a list beside the captions or one for all; else None each."""
    stated = metadata.get("languages", metadata.get("language"))
    if isinstance(stated, str) and stated.startswith("["):  # a list in a CSV
        try:
            stated = json.loads(stated)
        except (ValueError, RecursionError):
            stated = None
    if isinstance(stated, str) and stated.strip():
        return [stated.strip().lower()] * captions
    if isinstance(stated, Sequence) and not isinstance(stated, str) and len(stated) == captions:
        return [v.strip().lower() if isinstance(v, str) and v.strip() else None for v in stated]
    return [None] * captions
