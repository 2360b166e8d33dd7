"""data: URIs, as urllib reads them, but at a cost that their length bounds."""

from __future__ import annotations

import base64
import tracemalloc
from urllib.parse import quote_from_bytes

import numpy as np
import pytest

from service.intake import from_data_uri


@pytest.mark.parametrize("safe", ["", "/+=?", " \r\n\t=;,"])
def test_whatever_is_escaped_comes_back(safe: str) -> None:
    data = np.random.default_rng(0).bytes(5000) + bytes(range(256)) + b"=41 =\n \r\n"
    assert from_data_uri(f"data:image/png,{quote_from_bytes(data, safe)}") == data
    encoded = base64.b64encode(data)
    assert from_data_uri(f"DATA:image/png;Base64,{quote_from_bytes(encoded, safe)}") == data


def test_a_million_escapes_cost_what_as_many_letters_do() -> None:
    uri = "data:," + "%41" * 10**6
    tracemalloc.start()
    try:
        assert len(from_data_uri(uri)) == 10**6
        assert tracemalloc.get_traced_memory()[1] < 5 * len(uri)  # urllib's takes 75 times
    finally:
        tracemalloc.stop()
