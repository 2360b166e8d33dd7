"""One record at a time."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from corpus import Record
from training.prepare.checks import examine, plain
from training.prepare.options import Options


def record(data: bytes, **more: Any) -> Record:
    return Record(uri="a.png", read=lambda: data, **{"captions": ("a dog in the snow",), **more})


def test_a_good_one(picture: Callable[..., bytes]) -> None:
    data = picture(1)
    found = examine(record(data, metadata={"licence": "by", "score": float("nan")}), Options())
    assert found.refusal is None
    assert (found.data, found.suffix, found.width, found.height) == (data, "png", 96, 80)
    assert (found.captions, found.languages) == (["a dog in the snow"], ["en"])
    assert found.metadata == {"licence": "by", "score": None}


@pytest.mark.parametrize(
    ("width", "height", "options", "step"),
    [
        (40, 80, Options(), "too small"), (40, 80, Options(min_side=40), None), (600, 100, Options(), "aspect ratio"),
        (100, 600, Options(), "aspect ratio"), (600, 100, Options(max_aspect=0), None),
        (100, 100, Options(max_pixels=9999), "too many pixels"), (100, 100, Options(max_pixels=10_000), None),
        (8, 8, Options(min_side=0), None),
    ],
)  # fmt: skip
def test_sizes(picture: Callable[..., bytes], width: int, height: int, options: Options, step: str | None) -> None:
    found = examine(record(picture(1, width, height)), options)
    assert (found.refusal.step if found.refusal else None) == step


def test_what_cannot_be_read(picture: Callable[..., bytes]) -> None:
    def gone() -> bytes:
        raise FileNotFoundError(2, "No such file or directory")

    def strange() -> bytes:
        raise RuntimeError("the store is away")

    deep: list[Any] = []
    for _ in range(2000):
        deep = [deep]
    refusal = examine(record(picture(1), metadata={"deep": deep, "language": "[" * 5000}), Options()).refusal
    assert refusal is not None
    assert refusal.reason == "its metadata are nested too deeply"
    jpeg = picture(1, 300, 300, "JPEG")
    for read, says in (
        (gone, "No such file"), (strange, "the store is away"), (lambda: b"", "empty"), (lambda: b"text", "not an image"),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n%%EndComments\n", "not an image"),
        (lambda: jpeg[: len(jpeg) // 2], "truncated"),
    ):  # fmt: skip
        refusal = examine(Record(uri="a", read=read, captions=("a dog",)), Options()).refusal
        assert refusal is not None
        assert refusal.step == "unreadable"
        assert says in refusal.reason


def test_captions_are_sorted_out_one_by_one(picture: Callable[..., bytes]) -> None:
    captions = ("  a dog\n in the\tsnow ", "IMG_1.jpg", "a dog in the snow", "雪地里的狗")
    found = examine(record(picture(1), captions=captions), Options())
    assert (found.captions, found.languages) == (["a dog in the snow", "雪地里的狗"], ["en", "zh"])
    assert [r.step for r in found.refused] == ["boilerplate", "caption twice"]
    only = examine(record(picture(1), captions=captions), Options(languages=("zh",)))
    assert only.captions == ["雪地里的狗"]
    assert [r.step for r in only.refused] == ["language", "boilerplate", "language"]


def test_stated_languages_win(picture: Callable[..., bytes]) -> None:
    given = record(picture(1), captions=("ein Hund", "a dog"), metadata={"language": ["de", "en"]})
    found = examine(given, Options())
    assert found.languages == ["de", "en"]
    assert "language" not in found.metadata
    assert examine(given, Options(languages=("en",))).captions == ["a dog"]


def test_no_caption(picture: Callable[..., bytes]) -> None:
    refusal = examine(record(picture(1), captions=()), Options()).refusal
    assert refusal is not None
    assert refusal.step == "no caption"


def test_captions_of_a_prepared_shard(picture: Callable[..., bytes]) -> None:
    metadata = {"captions": ["a dog", 5, "a cat"], "languages": ["xx", "en", "zz"]}
    found = examine(record(picture(1), captions=("a dog",), metadata=metadata), Options())
    assert (found.captions, found.languages) == (["a dog", "a cat"], ["xx", "zz"])
    assert [(r.step, r.caption) for r in found.refused] == [("caption not text", "5")]


@pytest.mark.parametrize("suffix", [".txt", ".caption"])
def test_sidecars(tmp_path: Path, picture: Callable[..., bytes], suffix: str) -> None:
    (tmp_path / "a").with_suffix(suffix).write_text("\ufeffa dog in the snow\n\n雪地里的狗\n", "utf-8")
    found = examine(record(picture(1), captions=()), Options(), str(tmp_path))
    assert found.captions == ["a dog in the snow", "雪地里的狗"]


def test_a_sidecar_is_not_followed_out_of_the_folder(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    (tmp_path / "secret.txt").write_text("a secret thing")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").symlink_to(tmp_path / "secret.txt")
    assert examine(record(picture(1), captions=()), Options(), str(folder)).captions == []


@pytest.mark.parametrize(("format", "kind"), [("jpg", "JPEG"), ("webp", "WEBP")])
def test_resizing(picture: Callable[..., bytes], format: str, kind: str) -> None:
    found = examine(record(picture(1, 400, 300)), Options(max_side=200, resize_format=format))
    with Image.open(io.BytesIO(found.data)) as image:
        assert (image.size, image.format) == ((200, 150), kind)
    assert (found.width, found.height, found.suffix) == (200, 150, format)
    small = picture(1, 200, 100)
    assert examine(record(small), Options(max_side=200)).data == small


def test_metadata_become_json() -> None:
    assert plain({1: (float("inf"), b"x", None, True, "\ud800")}) == {"1": [None, "b'x'", None, True, "?"]}
    assert plain({"n\ud83d": 1}) == {"n?": 1}


def test_halves_of_characters_in_a_list_of_captions_can_be_written(picture: Callable[..., bytes]) -> None:
    metadata = {"captions": ["a dog\ud83d in the snow"], "languages": ["en\ud83d"]}
    found = examine(record(picture(1), captions=(), metadata=metadata), Options())
    assert (found.captions, found.languages) == (["a dog? in the snow"], ["en?"])
