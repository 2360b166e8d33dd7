import math
from typing import Any

import pytest

from corpus.records import as_utf8, captions_of


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ()),
        (" a ", ("a",)),
        (["a", None, "", " \n", 3], ("a", "3")),
        ("雨\ud800", ("雨?",)),
        ([math.nan, "a"], ("a",)),
        (math.nan, ()),
    ],
)
def test_captions(value: Any, expected: tuple[str, ...]) -> None:
    assert captions_of(value) == expected


def test_surrogates_do_not_reach_arrow() -> None:
    assert as_utf8("a\udcffb") == "a?b"
