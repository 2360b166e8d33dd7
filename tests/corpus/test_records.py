import math
import os
from typing import Any

import pytest

from corpus.records import as_address, as_name, as_utf8, captions_of


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


@pytest.mark.parametrize("value", [{"en": "a"}, ["a", {"en": "b"}], [["a"]], b"a"])
def test_what_is_no_text_is_no_caption(value: Any) -> None:
    with pytest.raises(ValueError, match=r"no text but a (dict|list|bytes)"):
        captions_of(value)


def test_an_address_leads_back_to_the_name() -> None:
    name = os.fsdecode(b"f/caf\xe9 \x80\xff \\u00e9.jpg")
    assert "\\udce9" in as_address(name)
    assert as_name(as_address(name)) == name


def test_surrogates_do_not_reach_arrow() -> None:
    assert as_utf8("a\udcffb") == "a?b"
