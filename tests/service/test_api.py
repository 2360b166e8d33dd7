"""Every call of the API against a real server, with good and with bad input."""

from __future__ import annotations

import base64
import concurrent.futures
import io
import json
import struct
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from dual_encoder import DualEncoder
from vector_index import IndexDirectory


@pytest.fixture(scope="module")
def client(live_server: str) -> Any:
    with httpx.Client(base_url=live_server, timeout=30) as client:
        yield client


def search(client: httpx.Client, target: str = "images", **body: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/search/{target}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def problem(answer: httpx.Response, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["request_id"] == answer.headers["x-request-id"]
    for word in words:
        assert word in body["detail"]
    assert "Traceback" not in answer.text


def rows(scenes: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in scenes.read_text("utf-8").splitlines()]


def test_facets(client: httpx.Client, scenes: Path) -> None:
    kept = [row for row in rows(scenes) if row["count"] > 1]
    answer = search(client, query={"text": "x"}, k=1, facets=["shape", "count"], filter={"count": {"$gt": 1}})
    for column in ("shape", "count"):
        expected = Counter(row[column] for row in kept if row[column] is not None)
        assert {facet["value"]: facet["count"] for facet in answer["facets"][column]} == expected
        counts = [facet["count"] for facet in answer["facets"][column]]
        assert counts == sorted(counts, reverse=True)
    twice = client.get("/v1/search/images?text=x&facets=shape&facets=count").json()
    assert list(twice["facets"]) == ["shape", "count"]
    by_url = client.get("/v1/search/images", params={"text": "x", "facets": "shape,captions"}).json()
    assert sum(facet["count"] for facet in by_url["facets"]["shape"]) == len(rows(scenes))
    assert len(by_url["facets"]["captions"]) == 20
    assert "facets" not in search(client, query={"text": "x"})
    problem(client.post("/v1/search/images", json={"query": {"text": "x"}, "facets": ["size_"]}), 422, "size_", "shape")


@pytest.mark.parametrize("column", ["background", "shape"])
def test_one_hit_a_group(client: httpx.Client, column: str) -> None:
    everything = search(client, query={"text": "a red star"}, k=60, include=["metadata"])["hits"]
    best: dict[Any, dict[str, Any]] = {}
    for hit in everything:
        best.setdefault(hit["metadata"].get(column, hit["id"]), hit)
    expected = [hit["id"] for hit in best.values()]
    hits = search(client, query={"text": "a red star"}, k=60, group_by=column)["hits"]
    assert [hit["id"] for hit in hits] == expected
    paged = search(client, query={"text": "a red star"}, k=2, offset=1, group_by=column)["hits"]
    assert [(hit["id"], hit["rank"]) for hit in paged] == [(id, rank) for rank, id in enumerate(expected[1:3], 2)]
    batch = search(client, queries=[{"text": "a red star"}, {"text": "a ring"}], k=3, group_by=column)["results"]
    assert [hit["id"] for hit in batch[0]["hits"]] == expected[:3]
    problem(client.get("/v1/search/images?text=x&group_by=captions"), 422, "group_by", "list")


def test_filters(client: httpx.Client, scenes: Path) -> None:
    wanted = {"background": {"$in": ["white", "black"]}, "count": {"$gt": 1}}
    expected = {row["image"] for row in rows(scenes) if row["background"] in ("white", "black") and row["count"] > 1}
    assert expected
    hits = search(client, query={"text": "stars"}, k=60, filter=wanted, include=["metadata"])["hits"]
    assert {hit["uri"] for hit in hits} == expected
    assert [hit["rank"] for hit in hits] == list(range(1, len(hits) + 1))
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    by_url = client.get("/v1/search/images", params={"text": "stars", "k": 60, "filter": json.dumps(wanted)})
    assert [hit["id"] for hit in by_url.json()["hits"]] == [hit["id"] for hit in hits]
    assert search(client, query={"text": "stars"}, filter={"shape": "none"})["hits"] == []
    picture = (scenes.parent / rows(scenes)[0]["image"]).read_bytes()
    form = client.post("/v1/search/images", files={"image": picture}, data={"filter": json.dumps(wanted), "k": "60"})
    assert {hit["uri"] for hit in form.json()["hits"]} == expected
    batch = search(client, queries=[{"text": "stars"}, {"text": "a ring"}], k=60, filter=wanted)["results"]
    assert [{hit["uri"] for hit in each["hits"]} for each in batch] == [expected, expected]
    problem(client.get("/v1/search/images?text=x&filter={"), 422, "filter: Invalid JSON")
    none = {"filter": "null", "params": "null"}
    assert search(client, query={"text": "stars"}, filter=None, params=None)["hits"]
    assert client.get("/v1/search/images", params={"text": "x", **none}).json()["hits"]
    assert client.post("/v1/search/images", files={"image": picture}, data=none).json()["hits"]
    for number in ("NaN", "-Infinity", "1e400"):
        odd = f'{{"count": {{"$gt": {number}}}}}'
        by_json = f'{{"query": {{"text": "x"}}, "filter": {odd}}}'
        problem(client.post("/v1/search/images", content=by_json), 422, "filter: count", "a number is expected")
        problem(client.get("/v1/search/images", params={"text": "x", "filter": odd}), 422, "a number is expected")
        by_form = client.post("/v1/search/images", files={"image": picture}, data={"filter": odd})
        problem(by_form, 422, "a number is expected")
    text = search(client, "texts", query={"text": "stars"}, filter={"text": rows(scenes)[0]["caption"][0]})
    assert [hit["text"] for hit in text["hits"]] == [rows(scenes)[0]["caption"][0]]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_words_find_pictures(client: httpx.Client, scenes: Path, language: str) -> None:
    found = 0
    for row in rows(scenes):
        caption = row["caption"][row["language"].index(language)]
        hits = search(client, query={"text": caption}, k=1)["hits"]
        found += hits[0]["uri"] == row["image"]
    assert found >= 0.8 * 60


def test_pictures_find_their_captions(client: httpx.Client, scenes: Path) -> None:
    found = 0
    for row in rows(scenes)[:30]:
        with (scenes.parent / row["image"]).open("rb") as file:
            answer = client.post("/v1/search/texts?k=1", files={"image": file})
        found += answer.json()["hits"][0]["text"] in row["caption"]
    assert found >= 24


def test_a_picture_finds_itself_by_id_and_by_bytes(client: httpx.Client, scenes: Path) -> None:
    data = (scenes.parent / rows(scenes)[3]["image"]).read_bytes()
    by_bytes = search(client, query={"image": {"base64": base64.b64encode(data).decode()}}, k=3)["hits"]
    by_id = search(client, query={"image": {"id": by_bytes[0]["id"]}}, k=3)["hits"]
    assert by_bytes[0]["uri"] == rows(scenes)[3]["image"]
    assert by_id[0]["score"] == pytest.approx(1, abs=1e-3)
    uri = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    assert search(client, query={"image": {"url": uri}}, k=1)["hits"][0]["id"] == by_id[0]["id"]


def test_scores_equal_the_encoder_and_exact_search(client: httpx.Client, index: Path, encoder: DualEncoder) -> None:
    answer = search(client, query={"text": "a large blue ring"}, k=60, exact=True)
    with IndexDirectory(index).open() as snapshot:
        vectors = snapshot.images.vectors(np.arange(60))
    expected = np.sort(vectors @ encoder.encode_texts(["a large blue ring"])[0])[::-1]
    np.testing.assert_allclose([hit["score"] for hit in answer["hits"]], expected, atol=2e-3)
    assert [hit["rank"] for hit in answer["hits"]] == list(range(1, 61))


def test_vector_offset_and_min_score(client: httpx.Client, encoder: DualEncoder) -> None:
    vector = encoder.encode_texts(["a red star"])[0].tolist()
    all_hits = search(client, query={"vector": vector}, k=20)["hits"]
    assert search(client, query={"vector": vector}, k=5, offset=3)["hits"] == all_hits[3:8]
    floor = all_hits[4]["score"]
    assert len(search(client, query={"vector": vector}, k=20, min_score=floor)["hits"]) == 5


def test_composed_queries_are_weighted_sums(client: httpx.Client, encoder: DualEncoder) -> None:
    parts = [{"text": "a red star"}, {"text": "a striped background", "weight": -0.5}]
    a, b = encoder.encode_texts(["a red star", "a striped background"])
    composed = (a - 0.5 * b).tolist()
    by_parts = search(client, query=parts, k=5)["hits"]
    by_vector = search(client, query={"vector": composed}, k=5)["hits"]
    np.testing.assert_allclose([h["score"] for h in by_parts], [h["score"] for h in by_vector], atol=3e-3)


def test_a_batch_answers_each_query(client: httpx.Client) -> None:
    texts = ["a red star", "红色星形", "four blue circles"]
    batch = search(client, queries=[{"text": t} for t in texts], k=4)["results"]
    for text, result in zip(texts, batch, strict=True):
        alone = search(client, query={"text": text}, k=4)["hits"]
        np.testing.assert_allclose([h["score"] for h in result["hits"]], [h["score"] for h in alone], atol=3e-3)


def test_include(client: httpx.Client, encoder: DualEncoder) -> None:
    hit = search(client, query={"text": "x"}, k=1, include=["metadata", "captions", "vector"])["hits"][0]
    assert hit["metadata"]["shape"]
    assert len(hit["captions"]) == 6
    assert np.linalg.norm(hit["vector"]) == pytest.approx(1, abs=1e-3)
    plain = search(client, query={"text": "x"}, k=1)["hits"][0]
    assert not {"metadata", "captions", "vector"} & plain.keys()


def test_get_is_cacheable(client: httpx.Client) -> None:
    first = client.get("/v1/search/images", params={"text": "红色心形", "k": 3, "include": "captions"})
    assert len(first.json()["hits"]) == 3
    etag = first.headers["etag"]
    for known, status in ((etag, 304), (f"W/{etag}", 304), (f'"other", {etag}', 304), ('"other"', 200)):
        again = client.get(
            "/v1/search/images",
            params={"text": "红色心形", "k": 3, "include": "captions"},
            headers={"If-None-Match": known},
        )
        assert again.status_code == status
    id = first.json()["hits"][0]["id"]
    assert client.get("/v1/search/texts", params={"image_id": id}).json()["hits"][0]["text"]


def test_concurrent_queries_get_their_own_answers(client: httpx.Client) -> None:
    texts = [f"{n} {colour} {shape}" for n in ("a small", "a large") for colour in ("red", "blue", "green")
             for shape in ("star", "ring", "cross", "arrow")]  # fmt: skip
    alone = {text: search(client, query={"text": text}, k=3)["hits"] for text in texts}
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = pool.map(lambda text: (text, search(client, query={"text": text}, k=3)["hits"]), texts * 5)
    for text, hits in together:
        np.testing.assert_allclose([h["score"] for h in hits], [h["score"] for h in alone[text]], atol=3e-3)


def test_embeddings_are_openais_shape(client: httpx.Client, encoder: DualEncoder) -> None:
    answer = client.post("/v1/embeddings", json={"input": ["a red star", "红色"]}).json()
    assert answer["object"] == "list"
    assert answer["usage"]["prompt_tokens"] > 0
    vectors = np.asarray([item["embedding"] for item in answer["data"]])
    np.testing.assert_allclose(vectors, encoder.encode_texts(["a red star", "红色"]), atol=2e-2)
    packed = client.post("/v1/embeddings", json={"input": "a red star", "encoding_format": "base64"}).json()
    decoded = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(decoded, vectors[0], atol=2e-2)


def test_embeddings_of_images(client: httpx.Client, scenes: Path) -> None:
    data = (scenes.parent / rows(scenes)[0]["image"]).read_bytes()
    uri = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    answer = client.post("/v1/embeddings", json={"input": [uri], "modality": "image"}).json()
    hits = search(client, query={"vector": answer["data"][0]["embedding"]}, k=1)["hits"]
    assert hits[0]["uri"] == rows(scenes)[0]["image"]


def test_rank(client: httpx.Client, scenes: Path, encoder: DualEncoder) -> None:
    row = rows(scenes)[0]
    data = base64.b64encode((scenes.parent / row["image"]).read_bytes()).decode()
    texts = ["a photo of a dog", row["caption"][0]]
    answer = client.post("/v1/rank", json={"image": {"base64": data}, "texts": texts}).json()
    assert answer["results"][0]["index"] == 1
    scores = np.asarray([r["score"] for r in answer["results"]])
    expected = np.exp(scores * encoder.logit_scale) / np.exp(scores * encoder.logit_scale).sum()
    np.testing.assert_allclose([r["probability"] for r in answer["results"]], expected, rtol=1e-3)


def test_items_thumbnails_and_content(client: httpx.Client, scenes: Path) -> None:
    id = search(client, query={"text": "x"}, k=1)["hits"][0]["id"]
    item = client.get(f"/v1/images/{id}").json()
    assert (item["width"], item["height"]) == (256, 256)
    thumbnail = client.get(item["thumbnail_url"])
    assert Image.open(io.BytesIO(thumbnail.content)).format == "WEBP"
    content = client.get(item["content_url"])
    assert content.content == (scenes.parent / item["uri"]).read_bytes()
    assert content.headers["content-type"] == "image/jpeg"
    problem(client.get("/v1/images/nothing"), 404, "nothing")


def test_operations(client: httpx.Client) -> None:
    described = client.get("/v1/index").json()
    assert described["images"]["count"] == 60
    assert described["texts"]["count"] == 360
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").json()["snapshot"] == described["snapshot"]
    assert client.post("/v1/index/reload").json()["changed"] is False
    assert "crossmodal_requests_total" in client.get("/metrics").text
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/search/{target}", "/v1/embeddings", "/v1/rank", "/v1/images/{id}"} <= paths.keys()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"query": {"text": "x"}, "k": 0}, ["k"]),
        ({"query": {"text": "x"}, "k": 10**9}, ["k"]),
        ({"query": {"text": "x"}, "limit": 5}, ["limit"]),
        ({"query": {}}, ["exactly one of text, image, vector"]),
        ({"query": {"text": "x" * 10_001}}, ["10000"]),
        ({}, ["exactly one of query and queries"]),
        ({"query": {"vector": [1.0]}}, ["1 numbers", "256"]),
        ({"query": {"vector": [0.0] * 256}}, ["no direction"]),
        ({"query": {"image": {"base64": "!!"}}}, ["base64"]),
        ({"query": {"image": {"base64": "aGVsbG8="}}}, ["not an image"]),
        ({"query": {"image": {"url": "http://127.0.0.1/x.png"}}}, ["off"]),
        ({"query": {"image": {"url": "file:///etc/passwd"}}}, ["https"]),
        ({"queries": [{"text": "x"}] * 65}, ["65", "64"]),
        ({"query": [{"text": "x"}, {"text": "x", "weight": -1}]}, ["add up to nothing"]),
        (
            {"query": {"text": "x"}, "filter": {"colour_": "red"}},
            ["filter: there is no column 'colour_'", "background"],
        ),
        ({"query": {"text": "x"}, "filter": {"count": "2"}}, ["filter: count", "number", '"2"']),
        ({"query": {"text": "x"}, "filter": [1]}, ["filter", "object"]),
    ],
)
def test_bad_searches(client: httpx.Client, body: dict[str, Any], words: list[str]) -> None:
    problem(client.post("/v1/search/images", json=body), 422, *words)


def test_bad_bodies(client: httpx.Client) -> None:
    problem(client.post("/v1/search/images", content=b"{"), 400, "not JSON")
    problem(client.post("/v1/search/images"), 400, "empty")
    nan = '{"query": {"vector": [' + ",".join(["NaN"] * 256) + "]}}"
    problem(client.post("/v1/search/images", content=nan), 422, "finite")
    problem(client.post("/v1/search/images", content=b"x" * (5 * 2**20)), 413, "bytes")
    problem(client.post("/v1/search/images", files={"image": b""}), 422, "0 bytes")
    problem(client.post("/v1/search/images", files={"picture": b"x"}), 422, "`image`")
    problem(client.get("/v1/search/images"), 422, "text and image_id")
    problem(client.post("/v1/search/images", json={"query": {"image": {"id": "nothing"}}}), 404, "nothing")
    problem(client.get("/nowhere"), 404, "/nowhere")
    problem(client.post("/v1/embeddings", json={"input": "x", "model": "other"}), 404, "other")


def png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its data does not have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")
    )


def test_bad_pictures_fail_alone(client: httpx.Client, scenes: Path) -> None:
    whole = (scenes.parent / rows(scenes)[0]["image"]).read_bytes()
    problem(client.post("/v1/search/images", files={"image": whole[:2000]}), 422, "truncated")
    problem(client.post("/v1/search/images", files={"image": png(100_000, 100_000)}), 422, "pixels")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        files = [whole, b"not an image", whole, whole[:2000]] * 4
        answers = list(pool.map(lambda f: client.post("/v1/search/images?k=1", files={"image": f}).status_code, files))
    assert answers == [200, 422, 200, 422] * 4


def test_a_picture_of_one_pixel_is_answered(client: httpx.Client) -> None:
    out = io.BytesIO()
    Image.new("RGB", (1, 1), "red").save(out, "PNG")
    assert client.post("/v1/search/images?k=1", files={"image": out.getvalue()}).status_code == 200
    assert client.get("/readyz").status_code == 200
    assert search(client, query={"text": "still here"}, k=1)["hits"]


@pytest.mark.parametrize(
    ("k", "include", "status"), [(5000, ["vector"], 200), (5001, ["vector"], 422), (5001, [], 200)]
)
def test_the_vectors_of_one_answer_are_bounded(client: httpx.Client, k: int, include: list[str], status: int) -> None:
    queries = [{"text": "a star"}, {"text": "a ring"}]
    answer = client.post("/v1/search/images", json={"queries": queries, "k": k, "include": include})
    assert answer.status_code == status, answer.text
