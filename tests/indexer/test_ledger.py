"""What a build remembers, against dictionaries that remember the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.ledger import LEDGER, Ledger


def row(picture: int, uri: str, captions: list[str], *, first: bool, id: str | None = None) -> dict[str, Any]:
    sha = hashlib.sha256(bytes([picture])).hexdigest()
    vector = b"v" if first else None
    return {"sha256": sha, "uri": uri, "captions": captions, "vector": vector, "reject": None, "id": id}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path)
    yield made
    made.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.lists(st.sampled_from("abcdef"), unique=True)), max_size=30), st.data())
def test_remembers_what_dictionaries_do(
    tmp_path_factory: Any, said: list[tuple[int, list[str]]], data: st.DataObject
) -> None:
    rows, order, uris = [], list[int](), dict[int, list[str]]()
    captions, pictures = dict[int, list[str]](), dict[str, list[str]]()
    for number, (picture, texts) in enumerate(said):
        if first := picture not in order:
            order.append(picture)
            uris[picture], captions[picture] = [], []
        else:
            uris[picture].append(str(number))
            captions[picture] += texts
        rows.append(row(picture, str(number), texts, first=first))
        for text in texts:
            if (sha := rows[-1]["sha256"][:16]) not in pictures.setdefault(text, []):
                pictures[text].append(sha)
    ledger = Ledger(tmp_path_factory.mktemp("ledger"))
    cut = data.draw(st.integers(0, len(rows)))
    ledger.note(rows[:cut])
    ledger.note(rows[cut:])
    again = ledger.again(0, len(order))
    for place, picture in enumerate(order):
        assert again.get(place, ([], [])) == (uris[picture], captions[picture])
    for text in "abcdef":
        assert ledger.pictures_of(text) == pictures.get(text, [])
        assert ledger.has_text(text) == (text in pictures)
    for picture in range(9):
        assert ledger.has_picture(hashlib.sha256(bytes([picture])).digest()) == (picture in order)
    ledger.close()


def test_own_ids_and_rejects(ledger: Ledger) -> None:
    ledger.note([row(1, "a", ["x"], first=True, id="own"), {**row(2, "b", ["y"], first=True), "reject": "broken"}])
    assert (ledger.has_id("own"), ledger.has_id("a")) == (True, False)
    assert ledger.pictures_of("x") == ["own"]
    assert not ledger.has_text("y")


def test_a_ledger_left_behind_is_made_anew(tmp_path: Path) -> None:
    left = Ledger(tmp_path)
    left.note([row(1, "a", ["x"], first=True)])
    del left  # as when the process is killed: nobody closed it
    (tmp_path / LEDGER).write_bytes(b"half a page")
    ledger = Ledger(tmp_path)
    assert not ledger.has_text("x")
    ledger.close()
    assert not (tmp_path / LEDGER).exists()


def test_a_full_disk_is_an_os_error(ledger: Ledger) -> None:
    pages = ledger._database.execute("PRAGMA page_count").fetchone()[0]
    ledger._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OSError, match=r"ledger\.sqlite: database or disk is full"):
        ledger.note([row(1, f"{n}", ["x" * 50 * n], first=n == 0) for n in range(100)])
