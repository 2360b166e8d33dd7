"""How a real server starts, is told to stop, and ends itself when it hangs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.lifecycle import WEDGED

# The server as the command line starts it, but for an encoder that hangs at one text and is slow at another.
_SCRIPT = """
import os, sys, threading, time
from pathlib import Path
from service import connections
from service.engine import Engine
from service.server import serve
from service.settings import Settings

opened = Engine.__init__
def open_engine(self, *args, **options):
    opened(self, *args, **options)
    encode = self.encoder.encode_rows
    hang, slow = (len(self.encoder.token_rows([text])[0]) for text in ("a " * 30, "a " * 20))
    def encode_rows(rows):
        if any(len(row) == hang for row in rows):
            Path(sys.argv[0] + ".hangs").touch()
            threading.Event().wait()
        if any(len(row) == slow for row in rows):
            time.sleep(1.5)
        return encode(rows)
    self.encoder.encode_rows = encode_rows
Engine.__init__ = open_engine
connections._LINGER = float(os.environ.get("LINGER", connections._LINGER))

if __name__ == "__main__":
    serve(Settings(index=Path(sys.argv[1])), "127.0.0.1", int(sys.argv[2]))
"""
HANG, SLOW = "a " * 30, "a " * 20


class Server:
    def __init__(self, folder: Path, index: Path, **settings: str) -> None:
        script = folder / "served.py"
        script.write_text(_SCRIPT)
        self.folder = folder
        self.hangs = folder / "served.py.hangs"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        names = {name: name if name.isupper() else f"CROSSMODAL_{name.upper()}" for name in settings}
        environment = {**os.environ, **{names[name]: value for name, value in settings.items()}}
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(index), str(self.port)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.wait_until_ready()

    def get(self, path: str, timeout: float = 20) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=timeout)

    def search(self, text: str, timeout: float = 20) -> httpx.Response:
        body = {"query": {"text": text}, "k": 1}
        return httpx.post(f"http://127.0.0.1:{self.port}/v1/search/images", json=body, timeout=timeout)

    def status(self, path: str) -> int:
        """0 where nobody answers."""
        try:
            return self.get(path, 5).status_code
        except httpx.TransportError:
            return 0

    def wait_until_ready(self, patience: float = 60) -> None:
        until = time.monotonic() + patience
        while self.status("/readyz") != 200:
            if self.process.poll() is not None or time.monotonic() > until:
                self.process.kill()
                pytest.fail(f"not ready: {self.process.communicate()[1]}")
            time.sleep(0.05)

    def until(self, happens: Callable[[], object], what: str) -> None:
        until = time.monotonic() + 20
        while not happens():
            assert time.monotonic() < until, f"{what}: not in 20 s"
            time.sleep(0.02)

    def in_background(self, text: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def ask() -> None:
            try:
                found["status"] = self.search(text).status_code
            except httpx.TransportError as error:
                found["error"] = repr(error)

        found["thread"] = threading.Thread(target=ask)
        found["thread"].start()
        return found

    def stop(self) -> str:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.communicate(timeout=20)[1]
        finally:
            self.process.kill()


def test_told_to_stop_it_is_not_ready_serves_on_and_finishes_what_it_has(tmp_path: Path, index: Path) -> None:
    server = Server(tmp_path, index, drain_delay="3", drain_timeout="10")
    assert server.search("a star").status_code == 200
    told = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: server.status("/readyz") == 503, "not ready")
    refused = server.get("/readyz")
    assert refused.status_code == 503
    assert "told to stop" in refused.json()["detail"]
    assert server.status("/healthz") == 200
    answer = server.search("a blue star")  # a balancer that does not know yet
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"
    time.sleep(max(0.0, told + 2 - time.monotonic()))
    late = server.in_background(SLOW)  # 1.5 s: it is being answered when the delay ends
    server.until(lambda: server.status("/healthz") == 0, "no more connections")
    assert time.monotonic() - told > 2.5
    late["thread"].join()
    assert late["status"] == 200
    assert server.process.wait(10) == -signal.SIGTERM
    assert "Traceback" not in server.stop()


def test_told_to_stop_it_answers_what_is_on_its_way(tmp_path: Path, index: Path) -> None:
    """On a connection that was idle when it was told, and on one that had not been used."""
    server = Server(tmp_path, index, LINGER="20")
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    used, fresh = (socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(2))
    used.sendall(request)
    seen = b""
    while not seen.endswith(b"}"):
        seen += used.recv(4096)
    server.process.terminate()
    server.until(lambda: server.status("/healthz") == 0, "no more connections")
    for connection in (used, fresh):
        with connection:
            connection.sendall(request)
            answer = b""
            while data := connection.recv(4096):
                answer += data
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"connection: close" in answer.lower()
    assert server.process.wait(10) == -signal.SIGTERM
    assert "Traceback" not in server.stop()


def test_what_does_not_finish_in_time_does_not_hold_it(tmp_path: Path, index: Path) -> None:
    server = Server(tmp_path, index, drain_timeout="1")
    stuck = server.in_background(HANG)
    server.until(server.hangs.exists, "it hangs")
    began = time.monotonic()
    server.process.terminate()
    server.process.wait(20)
    assert 0.5 < time.monotonic() - began < 15
    stuck["thread"].join()
    assert stuck.get("status") != 200
    server.stop()


def test_a_wedged_encoder_is_not_ready_then_ends_the_process(tmp_path: Path, index: Path) -> None:
    server = Server(tmp_path, index, stall_timeout="0.5", exit_timeout="3")
    for _ in range(2):  # one for each stream
        server.in_background(HANG)
    refused = server.get("/readyz")
    while refused.status_code == 200:
        refused = server.get("/readyz")
    assert refused.status_code == 503
    assert "the encoder has not answered for" in refused.json()["detail"]
    assert server.status("/healthz") == 200
    assert server.process.wait(20) == WEDGED
    said = server.stop()
    line = json.loads(said)
    assert re.fullmatch("the encoder has been at one batch for [3-9] s", line["because"])
    assert line["level"] == "critical"


def test_of_several_workers_the_wedged_one_is_replaced(tmp_path: Path, index: Path) -> None:
    server = Server(tmp_path, index, stall_timeout="0.5", exit_timeout="2", workers="2")
    try:
        children = _children(server.process.pid)
        assert len(children) == 2
        server.in_background(HANG)
        until = time.monotonic() + 60
        while _children(server.process.pid) & children == children and time.monotonic() < until:
            time.sleep(0.1)
        while len(_children(server.process.pid)) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        assert len(_children(server.process.pid) - children) == 1
        statuses = [server.search(f"star {n}").status_code for n in range(6)]
        assert statuses == [200] * 6
    finally:
        server.stop()
    assert server.process.returncode in (0, -signal.SIGTERM)


def test_a_worker_that_cannot_be_replaced_leaves_the_others_serving(tmp_path: Path, index: Path) -> None:
    import shutil

    own = tmp_path / "index"
    shutil.copytree(index, own)
    server = Server(tmp_path, own, workers="2", watch_seconds="0")
    try:
        killed, left = sorted(_children(server.process.pid))
        current = (own / "CURRENT").read_text()
        (own / "CURRENT").write_text("none\n")
        os.kill(killed, signal.SIGKILL)
        time.sleep(4)  # one that cannot start has been tried
        assert server.process.poll() is None
        assert left in _children(server.process.pid)
        assert [server.search(f"star {n}").status_code for n in range(4)] == [200] * 4
        (own / "CURRENT").write_text(current)
        until = time.monotonic() + 60
        while len(_children(server.process.pid)) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        assert len(_children(server.process.pid) - {killed}) == 2
    finally:
        server.stop()


def _children(pid: int) -> set[int]:
    """The workers: not multiprocessing's own helper."""
    import psutil

    found = set()
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.Error):  # it is ending
            if "spawn_main" in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "crossmodal", "serve", *map(str, words)], capture_output=True, text=True
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_bad_start_says_so_in_one_line(tmp_path: Path, index: Path, workers: str) -> None:
    import shutil

    damaged, empty = tmp_path / "damaged", tmp_path / "empty"
    shutil.copytree(index, damaged)
    empty.mkdir()
    for file in damaged.glob("snapshots/*/images.faiss"):
        file.write_bytes(file.read_bytes()[:100])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases = [
            ([tmp_path / "none"], "none"),
            ([empty], "there is no index"),
            ([damaged], "images.faiss"),
            ([index, "--model", tmp_path / "nothing"], "nothing"),
            ([index, "--port", port], f"cannot listen on 127.0.0.1, port {port}: Address already in use"),
        ]
        if workers == "2":
            cases = cases[1:2]
        for words, said in cases:
            extra = [] if "--port" in words else ["--port", str(_free())]
            found = run(*words, *extra, "--workers", workers)
            lines = found.stderr.splitlines()
            assert found.returncode == 1, found.stderr
            assert len(lines) == 1, found.stderr
            assert lines[0].startswith("error: ")
            assert said in lines[0]


def test_a_snapshot_of_another_model_is_refused_in_one_line(tmp_path: Path, index: Path) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(index, other)
    manifest = next(other.glob("snapshots/*/manifest.json"))
    text = json.loads(manifest.read_text())
    text["model"]["fingerprint"] = "0" * 64
    manifest.write_text(json.dumps(text))
    found = run(other, "--port", str(_free()))
    assert found.returncode == 1
    assert found.stderr.count("\n") == 1
    assert "was built with model" in found.stderr


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
