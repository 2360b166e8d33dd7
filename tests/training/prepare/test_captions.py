"""What counts as a caption."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.prepare.captions import boilerplate, caption_length, clean_caption, refuse_caption
from training.prepare.options import Options

NOTHING = [
    "IMG_1234.jpg", "IMG_1234", "DSC01234.JPG", "P1010101", "image001.png", "Screenshot 2020-01-01 at 10.11.12", "untitled",
    "Untitled-3", "holiday photo 12.jpeg", "my-cat_final.webp", "click to enlarge", "Click here to view larger image",
    "shutterstock 123", "Shutterstock_123456789", "Getty Images 5551234", "iStock-923746", "stock photo id: 99812",
    "royalty-free stock image", "2020-01-02", "12/31/1999 23:59", "0012345", "550e8400-e29b-41d4-a716-446655440000",
    "9f86d081884c7d659a2feaa0", "https://example.org/a.jpg", "no image available", "image", "Photo", "null", "N/A", "NaN",
    "© 2019 Somebody, all rights reserved", "<img src=x>", "read more", "!!!", "--", "...",
    "点击查看大图", "点击放大", "查看原图", "微信图片_20200101123456", "未命名", "无标题", "图片来源：网络", "暂无图片", "2021年3月4日", "视觉中国 1234",
    "图1", "版权所有", "屏幕截图 2020-01-01",
]  # fmt: skip
SOMETHING = [
    "a dog in the snow", "click to enlarge a large brown dog that runs in the deep snow", "a photo of a cat", "red star",
    "two cats", "Photo of the bridge at night, 1932", "iPhone 12 Pro Max", "Boeing 747", "a picture of two circles",
    "a stockbroker clicking a pen", "no dogs allowed sign", "an image on a wall", "the test pilot", "a file cabinet",
    "雪地里的一只狗", "红星", "一张图片上有两只猫", "点心", "摄影师在拍照", "图书馆", "2008年北京奥运会开幕式上的烟花",
]  # fmt: skip


@pytest.mark.parametrize("text", NOTHING)
def test_boilerplate(text: str) -> None:
    assert boilerplate(text)


@pytest.mark.parametrize("text", SOMETHING)
def test_captions(text: str) -> None:
    assert boilerplate(text) is None
    assert refuse_caption(text, Options()) is None


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("", "caption empty"), ("ab", "caption short"), ("马", "caption short"), ("a " * 501, "caption long"),
        ("马" * 501, "caption long"), ({"a": 1}, "caption not text"), (7, "caption not text"), (None, "caption not text"),
        ("{'a': 1}", "caption not text"), ('["a", "b"]', "caption not text"), ("untitled", "boilerplate"),
    ],
)  # fmt: skip
def test_refusals_name_their_step(text: object, step: str) -> None:
    refused = refuse_caption(text, Options())
    assert refused is not None
    assert refused[0] == step
    assert refused[1]


def test_thresholds_switch_off() -> None:
    off = Options(min_caption=0, max_caption=0, boilerplate=False)
    for text in ("a", "a " * 9000, "untitled", "IMG_1234.jpg"):
        assert refuse_caption(text, off) is None


def test_a_bracketed_caption_is_text() -> None:
    assert refuse_caption("[a dog] in the (snow)", Options()) is None
    assert refuse_caption("(a dog in the snow)", Options()) is None


def test_length_counts_full_width_twice() -> None:
    assert caption_length("ab") == 2
    assert caption_length("红星a") == 5


@given(st.text(max_size=300))
def test_cleaning_is_idempotent_and_one_line(text: str) -> None:
    clean = clean_caption(text)
    assert clean_caption(clean) == clean
    assert len(clean.splitlines()) <= 1
    refuse_caption(clean, Options())


@pytest.mark.parametrize("text", ["click " * 300, "1" * 1999, "a.b" * 600 + ".jpg", "a" * 1900 + " 1" * 40, "<a" * 900])
def test_patterns_are_not_a_trap(text: str) -> None:
    import time

    began = time.process_time()
    boilerplate(text)
    assert time.process_time() - began < 1
