"""The service over Milvus (Lite, in a process of its own): it answers as over FAISS, follows the alias, and outlives it."""

from __future__ import annotations

import logging
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from indexer import remove_from_index
from service.app import create_app
from service.problems import install
from service.settings import Settings
from vector_index import BeyondStore, IndexDirectory, StoreRefused
from vector_index.milvus import MilvusStore


class Lite:
    """A server of Milvus Lite that can be killed, stopped and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._command = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", str(folder)]
        self._command += ["--host", "127.0.0.1", "--port", str(self.port)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def listens() -> bool:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True
            return False

        until(listens)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def until(happens: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lite]:
    lite = Lite(tmp_path_factory.mktemp("lite") / "data")
    yield lite
    lite.kill()


@pytest.fixture(scope="module")
def directory(index: Path, tmp_path_factory: pytest.TempPathFactory) -> IndexDirectory:
    """A copy, to be changed."""
    copy = tmp_path_factory.mktemp("published") / "index"
    shutil.copytree(index, copy)
    return IndexDirectory(copy)


@pytest.fixture(scope="module")
def address(lite: Lite, directory: IndexDirectory) -> str:
    address = f"milvus://127.0.0.1:{lite.port}/scenes"
    publish(directory, address)
    return address


def publish(directory: IndexDirectory, address: str) -> None:
    store = MilvusStore(address, timeout=30)
    with directory.open() as snapshot:
        store.publish(snapshot)
    store.close()


@pytest.fixture(scope="module")
def clients(directory: IndexDirectory, address: str) -> Iterator[tuple[TestClient, TestClient]]:
    """One over FAISS, and one over Milvus."""
    patient: dict[str, Any] = {"decoder_processes": 0, "queue_seconds": 60}
    over_faiss = create_app(Settings(index=directory.path, watch_seconds=0, **patient))
    over_milvus = create_app(
        Settings(store=address, store_timeout=1, stall_timeout=1.5, watch_seconds=0.1, corpus_root="/", **patient)
    )
    with TestClient(over_faiss) as one, TestClient(over_milvus) as other:
        yield one, other


def rounded(value: Any) -> Any:
    """Without what changes from one time to the next, and with what two kinds of arithmetic agree on."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items() if name != "took_ms"}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


QUESTIONS: list[tuple[str, dict[str, Any]]] = [
    ("images", {"query": {"text": "a red star"}, "k": 7, "offset": 3, "include": ["metadata", "captions", "vector"]}),
    ("texts", {"query": {"image": {"id": "ID"}}, "k": 20}),
    ("images", {"query": {"image": {"id": "ID"}}, "k": 100, "min_score": 0.3}),
    ("images", {"query": [{"text": "a star"}, {"image": {"id": "ID"}, "weight": -0.5}], "exact": True}),
    ("images", {"queries": [{"text": "a ring"}, {"text": "四个蓝色圆形"}], "k": 3}),
    ("images", {"query": {"text": "a star"}, "filter": {"captions": {"$exists": True}, "width": {"$gt": 10}}}),
    ("images", {"query": {"text": "a star"}, "filter": {"$not": {"uri": {"$lt": "images/0000/0000030"}}}, "k": 60}),
    ("images", {"query": {"text": "a star"}, "group_by": "width", "facets": ["width", "captions"]}),
    ("texts", {"query": {"text": "a star"}, "filter": {"image_ids": "ID"}, "facets": ["image_ids"], "k": 10}),
    ("images", {"query": {"image": {"id": "nobody"}}}),
    ("images", {"query": {"text": "a star"}, "filter": {"colour": "red"}}),
    ("images", {"query": {"text": "a star"}, "params": {"efSearch": 5}}),
]


def with_id(value: Any, id: str) -> Any:
    if isinstance(value, dict):
        return {name: with_id(each, id) for name, each in value.items()}
    if isinstance(value, list):
        return [with_id(each, id) for each in value]
    return id if value == "ID" else value


def test_answers_as_over_faiss(clients: tuple[TestClient, TestClient]) -> None:
    id = clients[0].post("/v1/search/images", json={"query": {"text": "a ring"}}).json()["hits"][0]["id"]
    for target, question in QUESTIONS:
        answers = [client.post(f"/v1/search/{target}", json=with_id(question, id)) for client in clients]
        assert answers[0].status_code == answers[1].status_code, answers[1].text
        bodies = [rounded(answer.json()) for answer in answers]
        for body in bodies:
            body.pop("request_id", None)
        assert bodies[0] == bodies[1]
    for path in (f"/v1/images/{id}", f"/v1/images/{id}/thumbnail", "/v1/images/nobody", "/v1/images/nobody/thumbnail"):
        answers = [client.get(path) for client in clients]
        assert answers[0].status_code == answers[1].status_code
        if answers[0].status_code == 200:
            assert answers[0].content == answers[1].content
    told = clients[1].get("/v1/index").json()
    assert (told["images"]["count"], told["images"]["index"]["kind"]) == (60, "FLAT")


def test_what_it_cannot_do_is_said(clients: tuple[TestClient, TestClient]) -> None:
    question = {"query": {"text": "a star"}, "filter": {"captions": {"$gt": "a"}}}
    answer = clients[1].post("/v1/search/images", json=question)
    assert answer.status_code == 422
    assert "cannot be asked of this store" in answer.json()["detail"]


def test_what_milvus_says_is_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    install(app)

    @app.get("/{kind}")
    def refuse(kind: str) -> None:
        raise (BeyondStore if kind == "beyond" else StoreRefused)(f"{kind}: of photos_20260101 at 10.0.0.7")

    with TestClient(app) as client, caplog.at_level(logging.ERROR):
        answer = client.get("/refused")
        assert client.get("/beyond").json()["detail"] == "beyond: of photos_20260101 at 10.0.0.7"
    assert (answer.status_code, answer.json()["detail"]) == (422, "the store of the index refuses this request")
    assert "refused: of photos_20260101" in caplog.text
    assert "beyond" not in caplog.text


def test_the_alias_is_followed(clients: tuple[TestClient, TestClient], directory: IndexDirectory, address: str) -> None:
    second = remove_from_index(directory.path, lambda snapshot: snapshot.images.live()[:1].tolist()).snapshot
    publish(directory, address)
    until(lambda: clients[1].get("/v1/index").json()["snapshot"] == second)
    assert clients[1].get("/v1/index").json()["images"]["count"] == 59


@pytest.mark.parametrize("how", ["killed", "silent"])
def test_down_and_back(clients: tuple[TestClient, TestClient], lite: Lite, how: str) -> None:
    client = clients[1]

    def ask() -> Any:
        return client.post("/v1/search/images", json={"query": {"text": "a star"}, "k": 2})

    before = ask()
    assert before.status_code == 200
    lite.kill() if how == "killed" else lite.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        answer = ask()
        assert time.monotonic() - began < 5
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert "does not answer; try again" in answer.json()["detail"]
        assert "127.0.0.1" not in answer.text
        until(lambda: client.app.state.engine.store.down_for)  # type: ignore[attr-defined]
        began = time.monotonic()
        assert {ask().status_code for _ in range(5)} == {503}
        assert time.monotonic() - began < 3  # none of the five waits its second
        assert client.get("/healthz").status_code == 200
        assert client.post("/v1/embeddings", json={"input": ["a star"]}).status_code == 200
        until(lambda: client.get("/readyz").status_code == 503)
        assert "the store has not answered" in client.get("/readyz").json()["detail"]
        assert client.post("/v1/index/reload").status_code == 503
    finally:
        lite.start() if how == "killed" else lite.process.send_signal(signal.SIGCONT)
    until(lambda: client.get("/readyz").status_code == 200)
    assert rounded(ask().json()) == rounded(before.json())
