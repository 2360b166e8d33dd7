"""What the emoji are and are called, and which of them a run may learn from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.emoji.packages import PackageError

LANGUAGES = ("en", "zh")
HELD_OUT, UNUSED = "held out", "unused"
_HELD_OUT_SHARE = 0.1
_COMPONENT = "component"  # skin tones and hair as pictures of their own


@dataclass(frozen=True)
class Emoji:
    """`label` and `tags` are by language; `kind` is its class, such as food-drink."""

    hexcode: str
    text: str
    kind: str
    label: dict[str, str]
    tags: dict[str, tuple[str, ...]]

    @property
    def key(self) -> str:
        return key(self.hexcode)

    @property
    def place(self) -> float:
        """In 0–1, always the same for the same emoji."""
        return int.from_bytes(hashlib.blake2b(self.key.encode(), digest_size=4).digest(), "little") / 2**32

    def captions(self, language: str) -> list[str]:
        """Its name; and some keywords with its name, if it has any."""
        name = self.label[language]
        tags = [tag for tag in self.tags[language] if tag != name][:3]
        return [name, (", " if language == "en" else "，").join([*tags, name])] if tags else [name]


def key(hexcode: str) -> str:
    """Code points as all packages agree on them: they differ in case and in U+FE0F, which only asks for colour."""
    return "-".join(part for part in hexcode.upper().split("-") if part != "FE0F")


def part(emoji: Emoji, shares: list[float]) -> str:
    """The smallest of `shares` that learns from this emoji, as "0.125"; `unused` if none does, or `held out`.

    One in ten is held out, by a hash, whatever the shares. A larger share has all that a smaller one has.
    """
    if emoji.place < _HELD_OUT_SHARE:
        return HELD_OUT
    place = (emoji.place - _HELD_OUT_SHARE) / (1 - _HELD_OUT_SHARE)
    return next((f"{share:g}" for share in sorted(shares) if place < share), UNUSED)


def read_emoji(names: Path) -> list[Emoji]:
    """The emoji of an unpacked `emojibase-data`.

    Without skin tones (the same thing five times more), components and single letters of flags (nothing that has a
    meaning of its own). Flags stay: their names can only be learned one by one, so the tables tell them apart.
    Raises PackageError.
    """
    kinds = _read(names / "meta" / "groups.json")
    tables = {language: _read(names / language / "data.json") for language in LANGUAGES}
    try:
        rows = {language: {row["hexcode"]: row for row in table} for language, table in tables.items()}
        found = []
        for hexcode, row in rows[LANGUAGES[0]].items():
            kind = kinds["groups"].get(str(row.get("group")), _COMPONENT)
            if kind == _COMPONENT or any(hexcode not in table for table in rows.values()):
                continue
            label = {language: table[hexcode]["label"] for language, table in rows.items()}
            tags = {language: tuple(table[hexcode].get("tags", ())) for language, table in rows.items()}
            found.append(Emoji(hexcode, row["emoji"], kind, label, tags))
    except (KeyError, TypeError, AttributeError) as error:
        raise PackageError(f"{names.name}: data.json is not what this version is known to have ({error!r})") from None
    if not found:
        raise PackageError(f"{names.name}: there is no emoji in it")
    return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PackageError(f"{path.parent.name}/{path.name} of emojibase-data cannot be read: {reason}") from None
