"""Snapshots change while they are served: nothing is lost, nothing is kept, nothing bad gets in."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import io
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import httpx
import pytest
import uvicorn
from PIL import Image

from dual_encoder import load_encoder
from indexer import add_to_index, remove_from_index
from service.app import create_app
from service.settings import Settings
from service.watcher import watch_snapshots
from vector_index import IndexDirectory


@pytest.fixture
def directory(index: Path, tmp_path: Path) -> IndexDirectory:
    """A copy, to be changed."""
    shutil.copytree(index, tmp_path / "index")
    return IndexDirectory(tmp_path / "index")


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """A server on a free port, in a thread of this process: its address."""
    server = uvicorn.Server(uvicorn.Config(create_app(settings), host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def without_one(directory: IndexDirectory) -> str:
    """Publish a snapshot that lacks one more picture."""
    return remove_from_index(directory.path, lambda snapshot: snapshot.images.live()[:1].tolist()).snapshot


def mapped(directory: IndexDirectory) -> set[str]:
    """The snapshots of which this process has a file in a map or open."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    lines += [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.lexists(f"/proc/self/fd/{fd}")
    ]
    return {name for name in directory.names() for line in lines if f"{directory.snapshots}/{name}/" in line}


def test_a_hundred_switches_under_load(directory: IndexDirectory) -> None:
    first = directory.current()
    assert first is not None
    second = without_one(directory)
    answers: list[tuple[int, str]] = []
    stop = threading.Event()

    def ask(base: str, text: str) -> None:
        with httpx.Client(base_url=base, timeout=30) as client:
            while not stop.is_set():
                found = client.post("/v1/search/images", json={"query": {"text": text}, "k": 5})
                answers.append((found.status_code, found.json().get("snapshot", "")))

    with serving(Settings(index=directory.path, watch_seconds=0)) as base:
        askers = [threading.Thread(target=ask, args=(base, text)) for text in ("a red star", "四个蓝色圆形", "a ring")]
        for asker in askers:
            asker.start()
        changed = []
        try:
            with httpx.Client(base_url=base, timeout=30) as client:
                for number in range(100):
                    if number == 10:
                        fds = len(os.listdir("/proc/self/fd"))
                    directory.make_current(second if number % 2 else first)
                    changed.append(client.post("/v1/index/reload").json().get("changed"))
        finally:
            stop.set()
            for asker in askers:
                asker.join()
        assert changed == [True] * 100
        gc.collect()
        assert {status for status, _ in answers} == {200}
        assert {snapshot for _, snapshot in answers} == {first, second}
        assert mapped(directory) == {second}
        assert len(os.listdir("/proc/self/fd")) <= fds + 2


def test_a_new_snapshot_is_noticed_and_a_damaged_one_refused(
    directory: IndexDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    def live(base: str) -> Any:
        return httpx.get(f"{base}/v1/index").json()

    with serving(Settings(index=directory.path, watch_seconds=0.05)) as base:
        second = without_one(directory)
        until(lambda: live(base)["snapshot"] == second)
        assert live(base)["images"]["count"] == 59
        third = f"99991231T000000.000000Z-{second.split('-')[1]}"
        shutil.copytree(directory.snapshots / second, directory.snapshots / third)
        path = directory.snapshots / third / "images.faiss"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with caplog.at_level(logging.ERROR):
            directory.make_current(third)
            until(lambda: "refused" in caplog.text)
        assert "SHA-256 differs" in caplog.text
        answer = httpx.post(f"{base}/v1/index/reload")
        assert answer.status_code == 409
        assert "keeps serving" in answer.json()["detail"]
        assert live(base)["snapshot"] == second


def test_nothing_ends_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    class Engine:
        snapshot = SimpleNamespace(name="old")
        outcomes: ClassVar[list[Any]] = [MemoryError(), RuntimeError("bad_alloc"), RuntimeError("bad_alloc"), True]

        async def reload(self) -> bool:
            outcome = self.outcomes.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return bool(outcome)

    async def main() -> None:
        task = asyncio.create_task(watch_snapshots(Engine(), 0.001, asyncio.Event()))  # type: ignore[arg-type]
        while Engine.outcomes and not task.done():
            await asyncio.sleep(0.001)
        assert not task.done()
        task.cancel()

    asyncio.run(main())
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "MemoryError" in told[0]
    assert "bad_alloc" in told[1]


def until(happens: Any) -> None:
    deadline = time.monotonic() + 20
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_content_of_what_was_added_from_elsewhere(directory: IndexDirectory, scenes: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    picture = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(picture, "PNG")
    (elsewhere / "teal.png").write_bytes(picture.getvalue())
    add_to_index(elsewhere, directory.path, load_encoder("tiny"))
    id = hashlib.sha256(picture.getvalue()).hexdigest()[:16]
    with serving(Settings(index=directory.path)) as base:
        answer = httpx.get(f"{base}/v1/images/{id}/content")
        assert (answer.status_code, answer.content) == (200, picture.getvalue())
        hit = httpx.get(f"{base}/v1/search/images", params={"image_id": id, "k": 1}).json()["hits"][0]
        assert hit["uri"] == str(elsewhere / "teal.png")
        (elsewhere / "teal.png").unlink()
        (elsewhere / "teal.png").symlink_to("/etc/hostname")
        assert httpx.get(f"{base}/v1/images/{id}/content").status_code == 404
