from __future__ import annotations

import pytest

from training.prepare.languages import detect_language, stated_languages


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("a dog in the snow", "en"), ("café", "en"), ("雪地里的狗", "zh"), ("iPhone 手机壳保护套", "zh"), ("a 龙 tattoo on an arm", "en"),
        ("雪の中の犬", "other"), ("눈 속의 개", "other"), ("собака в снегу", "other"), ("123 !?", "other"), ("", "other"),
    ],
)  # fmt: skip
def test_detect(text: str, language: str) -> None:
    assert detect_language(text) == language


def test_stated() -> None:
    assert stated_languages({"language": "EN"}, 2) == ["en", "en"]
    assert stated_languages({"language": ["en", "zh"]}, 2) == ["en", "zh"]
    assert stated_languages({"languages": ["en", None]}, 2) == ["en", None]
    assert stated_languages({"language": '["en", "zh"]'}, 2) == ["en", "zh"]
    assert stated_languages({"language": ["en", "zh"]}, 3) == [None] * 3
    assert stated_languages({"language": "[en"}, 1) == [None]
    assert stated_languages({"language": "[" * 100_000}, 1) == [None]
    assert stated_languages({"language": 5}, 1) == [None]
    assert stated_languages({}, 1) == [None]
