"""What the routes do that a client over HTTP does not see: queries let go, bodies refused, files read where they lie."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from corpus import files
from dual_encoder import DualEncoder
from indexer import build_index, import_index
from service.app import create_app
from service.memo import LOOKUPS
from service.middleware import REQUESTS
from service.settings import Settings
from vector_index import IndexDirectory


@pytest.fixture(scope="module")
def app(index: Path) -> Iterator[FastAPI]:
    app = create_app(Settings(index=index))
    with TestClient(app):
        yield app


def test_a_query_whose_client_has_gone_is_dropped(index: Path) -> None:
    app = create_app(Settings(index=index))
    gate = threading.Event()
    encoded: list[int] = []
    sent: list[Any] = []

    async def main() -> None:
        async with app.router.lifespan_context(app):
            engine = app.state.engine
            encode = engine.encoder.encode_rows

            def slow(rows: Any) -> Any:
                gate.wait(10)
                encoded.append(len(rows))
                return encode(rows)

            engine.encoder.encode_rows = slow
            leave = asyncio.Event()

            async def ask(text: str, leaves: bool) -> None:
                messages = [{"type": "http.request", "body": json.dumps({"query": {"text": text}}).encode()}]

                async def receive() -> Any:
                    if messages:
                        return messages.pop()
                    await leave.wait()
                    if not leaves:
                        await asyncio.sleep(60)
                    return {"type": "http.disconnect"}

                async def send(message: Any) -> None:
                    sent.append((text, message.get("status")))

                scope = {"type": "http", "method": "POST", "path": "/v1/search/images", "headers": [],
                         "query_string": b"", "http_version": "1.1", "scheme": "http", "server": ("x", 80)}  # fmt: skip
                await app({**scope, "raw_path": b"", "root_path": "", "client": None}, receive, send)

            before = REQUESTS.labels("POST", "/v1/search/{target}", 499)._value.get()
            busy = [asyncio.create_task(ask(text, False)) for text in ("first", "second")]  # one a stream
            while engine.busy_for == 0 or engine.queries.batcher.waiting:
                await asyncio.sleep(0.001)
            staying, going = asyncio.create_task(ask("stays", False)), asyncio.create_task(ask("goes", True))
            await asyncio.sleep(0.05)
            leave.set()
            await going
            gate.set()
            await asyncio.gather(*busy, staying)
            assert REQUESTS.labels("POST", "/v1/search/{target}", 499)._value.get() == before + 1

    asyncio.run(main())
    assert sum(encoded) == 3
    assert {text for text, status in sent if status == 200} == {"first", "second", "stays"}
    assert not [text for text, _ in sent if text == "goes"]


def test_a_body_that_nobody_asked_for(index: Path) -> None:
    app = create_app(Settings(index=index, max_body_bytes=10, body_timeout=0.2))
    with TestClient(app) as client:
        engine = app.state.engine
        encode, current = engine.encoder.encode_rows, engine.store.current
        engine.encoder.encode_rows = lambda rows: (time.sleep(0.5), encode(rows))[1]
        engine.store.current = lambda: (time.sleep(0.5), current())[1]
        answer = client.request("GET", "/v1/search/images?text=a+late+star", content=iter([b"x" * 11]))
        assert answer.status_code == 413, answer.text
        assert client.post("/v1/index/reload", content=b"{}").json()["changed"] is False


def test_equal_texts_are_encoded_once_and_counted(app: FastAPI) -> None:
    client = TestClient(app)
    before = LOOKUPS.labels("text", "hit")._value.get()
    first = client.post("/v1/search/images", json={"query": {"text": "a text asked twice"}}).json()
    again = client.get("/v1/search/images", params={"text": " A  text asked twice"}).json()
    assert again["hits"] == first["hits"]
    assert LOOKUPS.labels("text", "hit")._value.get() == before + 1
    exported = client.get("/metrics").text
    assert 'crossmodal_cache_lookups_total{kind="text",result="hit"}' in exported
    assert "crossmodal_loop_lag_seconds_bucket" in exported
    assert 'crossmodal_batch_items_count{stage="search"}' in exported


def test_every_schema_that_the_document_names_is_in_it(app: FastAPI) -> None:
    document = TestClient(app).get("/openapi.json").text
    named = {piece.partition('"')[0] for piece in document.split("#/components/schemas/")[1:]}
    assert named <= json.loads(document)["components"]["schemas"].keys()
    assert {"SearchRequest", "QueryPart", "EmbeddingsRequest", "RankRequest"} <= named


@pytest.mark.parametrize("path", ["/v1/search/images", "/v1/embeddings", "/v1/rank"])
@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (b"{", 400), (b"[" * 100_000, 400), (b"\xff", 400), (b"[]", 422)]
)
def test_bodies_that_are_not_json_or_not_what_is_wanted(app: FastAPI, path: str, body: bytes, status: int) -> None:
    answer = TestClient(app).post(path, content=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_of_millions_of_values_is_refused_before_it_is_read(index: Path) -> None:
    """Nothing else runs while one is: half a second for these."""
    many = 9 * 2**20
    bodies = {
        "numbers": b'{"queries":[' + b",".join([b'{"vector":[' + b",".join([b"0"] * 65_000) + b"]}"] * 130) + b"]}",
        "objects": b'{"query":{"text":"x"},"filter":{"a":[' + b",".join([b"{}"] * (many // 3)) + b"]}}",
        "lists": b'{"query":{"text":"x"},"filter":{"a":[' + b"[[[[]]]]" * (many // 8),
        "names": b'{"query":{"text":"x"},' + b",".join(b'"%d":1' % n for n in range(many // 10)) + b"}",
        "errors with all else": b'{"queries":['
        + b",".join([b'{"text":"","vector":[' + b",".join([b"0"] * 60_000) + b"]}"] * 3)
        + b"]}",
        "a picture": b'{"query":{"image":{"base64":"' + b"QUJD" * (many // 4) + b'"}}}',
        "64 vectors of 1,536": json.dumps({"queries": [{"vector": [0.1] * 1536}] * 64}).encode(),
    }
    app = create_app(Settings(index=index, decoder_processes=0))
    said: dict[str, str] = {}
    took: dict[str, float] = {}

    async def main() -> None:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client,
        ):
            for name, body in bodies.items():
                began = time.thread_time()
                answer = await client.post("/v1/search/images", content=body)
                took[name] = time.thread_time() - began
                assert answer.status_code == 422
                said[name] = answer.json()["detail"]

    asyncio.run(main())
    assert {name for name, detail in said.items() if "more than 200,000 values" in detail} == set(list(bodies)[:4])
    assert "numbers; the model's have" in said["64 vectors of 1,536"]
    assert max(took.values()) < 0.15, took


@pytest.mark.parametrize("body", [{"input": "a", "model": "x" * 10**6}, {"input": "a", "x" * 10**6: 1}])
def test_what_was_wrong_is_not_sent_back_whole(app: FastAPI, body: dict[str, Any]) -> None:
    assert len(TestClient(app).post("/v1/embeddings", json=body).content) < 3000


def test_content_is_read_from_a_remote_corpus(tmp_path: Path, scenes: Path, encoder: DualEncoder) -> None:
    memory = fsspec.filesystem("memory")
    rows = [json.loads(line) for line in scenes.read_text("utf-8").splitlines()][:3]
    originals = {row["image"]: (scenes.parent / row["image"]).read_bytes() for row in rows}
    for name, data in originals.items():
        memory.pipe(f"/corpus/{name}", data)
    build_index("memory://corpus", tmp_path / "index", encoder)
    app = create_app(Settings(index=tmp_path / "index"))
    with TestClient(app) as client:
        hits = client.get("/v1/search/images?text=x&k=3").json()["hits"]
        assert len(hits) == 3
        for hit in hits:
            content = client.get(f"/v1/images/{hit['id']}/content")
            assert content.content in originals.values(), content.text
            assert content.headers["content-type"] == "image/jpeg"
        memory.rm("/corpus", recursive=True)
        gone = client.get(f"/v1/images/{hits[0]['id']}/content")
        assert gone.status_code == 404
        assert "cannot be read" in gone.json()["detail"]


def test_a_corpus_that_hangs_keeps_no_query_waiting(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(files, "read", lambda *_: goes_on.wait(20) and b"")
    with TestClient(create_app(Settings(index=index, request_timeout=5))) as client:
        id = client.get("/v1/search/images?text=x&k=1").json()["hits"][0]["id"]
        readers = [threading.Thread(target=client.get, args=(f"/v1/images/{id}/content",)) for _ in range(8)]
        for reader in readers:
            reader.start()
        time.sleep(0.2)
        long = client.post("/v1/search/images", json={"query": {"text": "a long text " * 40}})
        assert (long.status_code, goes_on.is_set()) == (200, False)
        goes_on.set()
        for reader in readers:
            reader.join()


def test_an_id_may_have_slashes_in_it(tmp_path: Path, encoder: DualEncoder) -> None:
    (tmp_path / "emb").mkdir()
    red = Image.new("RGB", (40, 30), "red")
    red.save(tmp_path / "emb" / "0.png")
    np.save(tmp_path / "emb" / "part.npy", encoder.encode_images([red]))
    pq.write_table(pa.table({"id": ["shop/7 é/0.png"], "uri": ["0.png"]}), tmp_path / "emb" / "part.parquet")
    import_index(tmp_path / "emb", tmp_path / "index", encoder)
    with TestClient(create_app(Settings(index=tmp_path / "index", decoder_processes=0))) as client:
        hit = client.get("/v1/search/images?text=red&k=1").json()["hits"][0]
        assert hit["id"] == "shop/7 é/0.png"
        item = client.get("/v1/images/" + quote(hit["id"], safe=""))
        assert item.json()["id"] == hit["id"]
        content = client.get(item.json()["content_url"])
        assert (content.status_code, content.headers["content-type"]) == (200, "image/png")
        assert client.get(item.json()["content_url"].replace("content", "thumbnail")).status_code in (200, 404)
        assert client.get("/v1/images/nobody/content").status_code == 404
        assert 'route="/v1/images/{id}/content"' in client.get("/metrics").text


def test_content_never_leaves_the_corpus(tmp_path: Path, index: Path) -> None:
    with IndexDirectory(index).open() as snapshot:
        id = snapshot.images.take([0], ["id"]).column("id")[0].as_py()
    app = create_app(Settings(index=index, corpus_root=str(tmp_path)))
    with TestClient(app) as client:
        answer = client.get(f"/v1/images/{id}/content")
    assert answer.status_code == 404
    assert str(tmp_path) not in answer.text


def test_two_workers_serve_and_share_the_cores(index: Path, free_port: int) -> None:
    import os
    import subprocess
    import sys

    command = [sys.executable, "-m", "crossmodal", "serve", str(index), "--port", str(free_port), "--workers", "2"]
    elsewhere = {"CROSSMODAL_STORE": "milvus://127.0.0.1:1/scenes"}  # the argument beats it, in each worker
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, **elsewhere})
    try:
        seen: set[str] = set()
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                answer = httpx.get(f"http://127.0.0.1:{free_port}/v1/search/images?text=a+red+star&k=3", timeout=10)
                assert len(answer.json()["hits"]) == 3
                seen.add(answer.json()["hits"][0]["id"])
                break
            except httpx.TransportError:
                assert process.poll() is None
                time.sleep(0.1)
        assert len(seen) == 1
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
