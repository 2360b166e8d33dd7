"""Each refusal has one reason, and is counted under it alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.refusals import REFUSALS, Reason
from service.settings import Settings


def counts() -> dict[str, float]:
    samples = (sample for metric in REFUSALS.collect() for sample in metric.samples)
    return {sample.labels["reason"]: sample.value for sample in samples if sample.name.endswith("_total")}


@pytest.mark.parametrize(
    ("reason", "request_"),
    [
        ("url_off", {"json": {"query": {"image": {"url": "https://example.com/a.jpg"}}}}),
        ("url_malformed", {"json": {"query": {"image": {"url": "ftp:"}}}}),
        ("invalid", {"json": {"query": {"text": "a"}, "k": 0}}),
        ("invalid", {"content": b"{"}),
        ("too_large", {"content": b"x" * 1001}),
        ("invalid", {"json": {"query": {"text": "a"}}, "headers": {"X-Request-Timeout": "soon"}}),
    ],
)
def test_a_refusal_is_counted_once(index: Path, reason: str, request_: dict[str, Any]) -> None:
    with TestClient(create_app(Settings(index=index, max_body_bytes=1000, decoder_processes=0))) as client:
        before = counts()
        assert before.keys() == set(get_args(Reason))  # also those that have not happened, at 0
        assert client.post("/v1/search/images", **request_).status_code in (400, 413, 422)
        changed = {name: after - before[name] for name, after in counts().items() if after != before[name]}
    assert changed == {reason: 1}
