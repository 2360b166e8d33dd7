"""Search parameters of a request, on an approximate index behind the real app."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from dual_encoder import DualEncoder
from indexer import build_index
from service.app import create_app
from service.settings import Settings
from vector_index import Collection


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory, scenes: Path, encoder: DualEncoder) -> Iterator[TestClient]:
    out = tmp_path_factory.mktemp("graph")
    build_index(scenes, out, encoder, index_type="HNSW4")
    with TestClient(create_app(Settings(index=out))) as client:
        yield client


def test_parameters_reach_the_search(graph: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    search = Collection.search

    def noted(self: Collection, *args: object, **options: object) -> object:
        seen.append((options["params"], options["modality"]))
        return search(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Collection, "search", noted)
    id = graph.post("/v1/search/images", json={"query": {"text": "a star"}, "k": 1}).json()["hits"][0]["id"]
    few = {"query": {"image": {"id": id}}, "k": 1, "params": {"efSearch": 1}}
    assert graph.post("/v1/search/images", json=few).status_code == 200
    mixed = {"query": [{"text": "a star"}, {"image": {"id": id}}], "k": 1, "params": {"efSearch": 2}}
    assert graph.post("/v1/search/images", json=mixed).status_code == 200
    assert seen == [({}, "texts"), ({"efSearch": 1}, "images"), ({"efSearch": 2}, None)]


@pytest.mark.parametrize(
    "params", [{"efSearch": 10**9}, {"efSearch": 10**30}, {"efSearch": 0}, {"nprobe": 4}, {"": 1}, {"efSearch": -1}]
)
def test_what_is_allowed_is_said(graph: TestClient, params: dict[str, int]) -> None:
    answer = graph.post("/v1/search/images", json={"query": {"text": "a star"}, "params": params})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert "params" in answer.json()["detail"]
    assert "efSearch from 1 to 10,000" in answer.json()["detail"]


@pytest.mark.parametrize("params", [{"efSearch": "many"}, {"efSearch": 1.5}, [1], "efSearch"])
def test_what_is_no_number_is_refused(graph: TestClient, params: object) -> None:
    answer = graph.post("/v1/search/images", json={"query": {"text": "a star"}, "params": params})
    assert answer.status_code == 422
    assert "params" in answer.json()["detail"]


def test_an_exact_index_has_none(live_server: str) -> None:
    answer = httpx.post(f"{live_server}/v1/search/images", json={"query": {"text": "x"}, "params": {"nprobe": 1}})
    assert answer.status_code == 422
    assert "it is exact" in answer.json()["detail"]
