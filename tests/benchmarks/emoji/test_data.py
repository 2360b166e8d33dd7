"""Packages made by hand become the tables that training and evaluation read."""

from __future__ import annotations

import json
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.emoji.artwork import framed, make_pictures
from benchmarks.emoji.concepts import HELD_OUT, Emoji, key, part, read_emoji
from benchmarks.emoji.packages import PACKAGES, PackageError, fetch, unpack
from benchmarks.emoji.tables import TABLE, drawn_by_all, training_table, write_table
from training.pairs import read_pairs

SHARES = [0.125, 0.25, 0.5, 1.0]
EN = [
    {"hexcode": "1F1E6", "label": "regional indicator A", "emoji": "🇦"},
    {"hexcode": "1F3FB", "label": "light skin tone", "emoji": "🏻", "group": 2},
    {"hexcode": "2764", "label": "red heart", "emoji": "❤️", "group": 0, "tags": ["heart", "love", "red heart", "emo", "x"]},
    {"hexcode": "1F44D", "label": "thumbs up", "emoji": "👍️", "group": 1, "tags": ["hand"],
     "skins": [{"hexcode": "1F44D-1F3FB", "label": "thumbs up: light skin tone", "emoji": "👍🏻", "group": 1}]},
    {"hexcode": "1F9F1", "label": "brick", "emoji": "🧱", "group": 5},
]  # fmt: skip
ZH_NAMES = {"2764": "红心", "1F44D": "拇指向上", "1F9F1": "砖", "1F1E6": "A", "1F3FB": "较浅肤色"}


@pytest.fixture
def names(tmp_path: Path) -> Path:
    zh = [
        {**row, "label": ZH_NAMES[str(row["hexcode"])], "tags": ["手"] if row["hexcode"] == "1F44D" else []}
        for row in EN
    ]
    groups = {"groups": {"0": "smileys-emotion", "1": "people-body", "2": "component", "5": "travel-places"}}
    for path, content in (("en/data.json", EN), ("zh/data.json", zh), ("meta/groups.json", groups)):
        (tmp_path / "names" / path).parent.mkdir(parents=True)
        (tmp_path / "names" / path).write_text(json.dumps(content), "utf-8")
    return tmp_path / "names"


def draw(folder: Path, *files: str) -> Path:
    """Red squares in the middle of nothing."""
    folder.mkdir(parents=True)
    for file in files:
        image = Image.new("RGBA", (64, 64))
        image.paste((255, 0, 0, 255), (24, 24, 40, 40))
        image.save(folder / file)
    return folder


def test_skin_tones_components_and_letters_are_left_out(names: Path) -> None:
    emoji = read_emoji(names)
    assert [each.hexcode for each in emoji] == ["2764", "1F44D", "1F9F1"]
    assert [each.kind for each in emoji] == ["smileys-emotion", "people-body", "travel-places"]


def test_captions_are_the_name_and_three_keywords_with_the_name(names: Path) -> None:
    heart, thumb, brick = read_emoji(names)
    assert heart.captions("en") == ["red heart", "heart, love, emo, red heart"]
    assert thumb.captions("zh") == ["拇指向上", "手，拇指向上"]
    assert brick.captions("en") == ["brick"]


def test_two_packages_become_a_table_that_training_reads(names: Path, tmp_path: Path) -> None:
    emoji = read_emoji(names)
    wanted = {each.key for each in emoji}
    folders = [tmp_path / "a", tmp_path / "b"]
    files = ("1f44d.png", "1f44d-1f3fb.png", "1f9f1.png"), ("1F44D.png", "2764-fe0f.png", "1F9F1.png")
    for folder, drawings in zip(folders, files, strict=True):
        make_pictures(draw(tmp_path / f"drawn-{folder.name}", *drawings), wanted, folder)
    common = drawn_by_all(emoji, folders)
    assert [each.hexcode for each in common] == ["1F44D", "1F9F1"], "one vendor draws no heart"
    write_table(common, folders[0], SHARES, keywords=True)
    write_table(common, folders[1], SHARES, keywords=False)

    thumb = read_pairs(folders[0])[0]
    assert thumb.captions == ("thumbs up", "hand, thumbs up", "拇指向上", "手，拇指向上")
    assert thumb.languages == ("en", "en", "zh", "zh")
    assert thumb.group == "1F44D"
    assert thumb.metadata["kind"] == "people-body"
    assert thumb.metadata["part"] == part(common[0], SHARES)
    assert read_pairs(folders[1])[0].captions == ("thumbs up", "拇指向上")

    learned = [each for each in common if part(each, SHARES) != HELD_OUT]
    out = tmp_path / "runs" / "all" / TABLE
    assert training_table(folders, 1, out) == 2 * len(learned) > 0
    pairs = read_pairs(out)
    assert all(pair.read().startswith(b"\x89PNG") for pair in pairs)
    assert {pair.group for pair in pairs} == {each.key for each in learned}


def test_holding_out_is_stable_and_larger_shares_have_all_that_smaller_ones_have() -> None:
    emoji = [Emoji(f"{number:X}", "", "", {}, {}) for number in range(0x1F300, 0x1F300 + 2000)]
    held = [each.hexcode for each in emoji if part(each, SHARES) == HELD_OUT]
    assert 150 < len(held) < 250
    assert held[:3] == ["1F321", "1F335", "1F33C"]
    for fewer, more in pairwise(SHARES):
        assert {e.key for e in emoji if part(e, [fewer, 1]) == f"{fewer:g}"} < {
            e.key for e in emoji if part(e, [more, 1]) == f"{more:g}"
        }
    assert held == [each.hexcode for each in emoji if part(each, [0.3]) == HELD_OUT], "whatever the shares"
    asked_for_colour = Emoji("2764-FE0F", "", "", {}, {})
    assert asked_for_colour.place == Emoji("2764", "", "", {}, {}).place


def test_keys_ignore_case_and_the_request_for_colour() -> None:
    assert key("0023-fe0f-20e3") == key("0023-20E3") == "0023-20E3"


def test_a_drawing_is_framed_alike_whatever_margin_its_vendor_leaves(tmp_path: Path) -> None:
    folder = draw(tmp_path / "drawn", "1f44d.png")
    with Image.open(folder / "1f44d.png") as drawing:
        picture = framed(drawing)
    assert picture.size == (18, 18)
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert picture.getpixel((9, 9)) == (255, 0, 0)


def test_other_layouts_are_refused_by_name(names: Path, tmp_path: Path) -> None:
    (names / "zh" / "data.json").unlink()
    with pytest.raises(PackageError, match=r"zh/data.json of emojibase-data cannot be read: No such file"):
        read_emoji(names)
    (names / "zh" / "data.json").write_text('[{"name": "x"}]', "utf-8")
    with pytest.raises(PackageError, match="not what this version is known to have"):
        read_emoji(names)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PackageError, match="no drawing of any emoji"):
        make_pictures(tmp_path / "empty", {"1F44D"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as tar:
        tar.add(tmp_path / "empty", "elsewhere")
    with pytest.raises(PackageError, match="no folder `package`"):
        unpack(tmp_path / "other.tgz", tmp_path / "unpacked")
    (tmp_path / "cut.tgz").write_bytes((tmp_path / "other.tgz").read_bytes()[:40])
    with pytest.raises(PackageError, match="cannot be unpacked"):
        unpack(tmp_path / "cut.tgz", tmp_path / "cut")


def test_without_npm_a_package_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PackageError, match="npm is not installed"):
        fetch(PACKAGES[0], tmp_path / "packages")
    assert list((tmp_path / "packages").iterdir()) == []
    there = tmp_path / "packages" / f"{PACKAGES[0].name}-{PACKAGES[0].version}"
    there.mkdir()
    assert fetch(PACKAGES[0], tmp_path / "packages") == there
