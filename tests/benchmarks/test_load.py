"""What wrk prints, and the metric of the event loop's lag, are read right."""

from __future__ import annotations

import pytest

from benchmarks.load import parse, pictures_as_forms, texts_as_json
from benchmarks.serve import lag_p99

PRINTED = """Running 4s test @ http://127.0.0.1:1/
  1 threads and 8 connections
RESULT{"requests":120,"seconds":4.0,"errors":20,"p50_ms":5.5,"p95_ms":9.0,"p99_ms":12.0,"late":0.25}
"""


def test_closed_loop() -> None:
    load = parse(PRINTED, 8)
    assert load.per_second == 25
    assert load.p95_ms == 9
    assert load.to_json()["clients"] == 8
    assert not {"late", "offered"} & load.to_json().keys()


def test_open_loop() -> None:
    row = parse(PRINTED, 512, offered=40.0).to_json()
    assert (row["offered"], row["late"]) == (40, 0.25)


def test_no_figures() -> None:
    with pytest.raises(RuntimeError, match=r"wrk failed.*refused"):
        parse("unable to connect: refused", 1)


def test_bodies_are_written_as_sent(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    texts = texts_as_json(['say "a"'], '{"text": TEXT}')
    forms = pictures_as_forms([b"\xff\xd8"])
    written = {path.read_bytes() for path in tmp_path.glob("bodies-*/000001")}
    assert b'{"text": "say \\"a\\""}' in written
    assert any(b"\r\n\r\n\xff\xd8\r\n--" in body for body in written)
    del texts, forms


def test_lag_is_that_of_what_came_between() -> None:
    before = {0.001: 100.0, 0.01: 100.0, float("inf"): 100.0}
    assert lag_p99(before, {0.001: 150.0, 0.01: 200.0, float("inf"): 200.0}) == 10
    assert lag_p99(before, {0.001: 200.0, 0.01: 200.0, float("inf"): 200.0}) == 1
