"""Metadata of lists, from a table to filters, facets and answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from dual_encoder import DualEncoder
from indexer import add_to_index, build_index
from service.app import create_app
from service.settings import Settings
from tests.indexer.pictures import jpeg
from vector_index import IndexDirectory

TAGS = [["beach", "sunset"], ["beach"], [], None, ["雨", "beach", "雨"]]


def write_table(folder: Path, tags: list[Any], first: int = 0, suffix: str = "jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    rows = [{"image": f"{n}.jpg", "id": str(n), "tags": value} for n, value in enumerate(tags, first)]
    for n in range(first, first + len(tags)):
        (folder / f"{n}.jpg").write_bytes(jpeg(n))
    path = folder / f"table.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


def ask(client: TestClient, **more: Any) -> Any:
    answer = client.post("/v1/search/images", json={"query": {"text": "x"}, "include": ["metadata"], **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_list_matches_where_one_of_its_values_does(tmp_path: Path, encoder: DualEncoder, suffix: str) -> None:
    """Over two segments."""
    build_index(write_table(tmp_path / "corpus", TAGS, 0, suffix), tmp_path / "index", encoder)
    add_to_index(write_table(tmp_path / "corpus", [["sunset"]], 5, suffix), tmp_path / "index", encoder)
    with IndexDirectory(tmp_path / "index").open() as snapshot:
        assert len(snapshot.images.segments) == 2
    every = dict(enumerate([*TAGS, ["sunset"]]))
    with TestClient(create_app(Settings(index=tmp_path / "index", watch_seconds=0, decoder_processes=0))) as client:
        for wanted, expected in (
            ("beach", "014"), ({"$in": ["sunset", "雨"]}, "045"), ({"$ne": "beach"}, "235"), ({"$exists": False}, "23"),
        ):  # fmt: skip
            found = ask(client, filter={"tags": wanted}, facets=["tags"])
            hits = {hit["id"]: hit["metadata"] for hit in found["hits"]}
            assert hits == {id: {"tags": every[int(id)]} if every[int(id)] is not None else {} for id in expected}
            counted = {each["value"]: each["count"] for each in found["facets"]["tags"]}
            assert counted == {
                tag: count
                for tag in ("beach", "sunset", "雨")
                if (count := sum(tag in (every[int(id)] or []) for id in expected))
            }
        assert client.get("/v1/images/4").json()["metadata"] == {"tags": ["雨", "beach", "雨"]}
        for wrong, word in (({"filter": {"tags": ["beach"]}}, "a text is expected"), ({"group_by": "tags"}, "list")):
            answer = client.post("/v1/search/images", json={"query": {"text": "x"}, **wrong})
            assert answer.status_code == 422
            assert word in answer.json()["detail"]


@pytest.mark.parametrize(("before", "after"), [(["beach"], "sunset"), ("sunset", ["beach"])])
def test_lists_and_texts_of_two_segments_are_texts(
    tmp_path: Path, encoder: DualEncoder, caplog: pytest.LogCaptureFixture, before: Any, after: Any
) -> None:
    build_index(write_table(tmp_path / "corpus", [before, before, before]), tmp_path / "index", encoder)
    for _ in range(2):
        report = add_to_index(write_table(tmp_path / "corpus", [after], 3), tmp_path / "index", encoder)
    assert (report.added, report.changed) == (0, 0)
    assert caplog.text.count("'tags' has lists either in the index or in what is added, not in both") == 1
    with TestClient(create_app(Settings(index=tmp_path / "index", watch_seconds=0, decoder_processes=0))) as client:
        found = ask(client, facets=["tags"], k=9, filter={"tags": {"$in": ["sunset", '["beach"]']}})
        texts = {"0": before, "1": before, "2": before, "3": after}
        expected = {id: value if isinstance(value, str) else json.dumps(value) for id, value in texts.items()}
        assert {hit["id"]: hit["metadata"]["tags"] for hit in found["hits"]} == expected
        assert sorted(each["count"] for each in found["facets"]["tags"]) == [1, 3]
