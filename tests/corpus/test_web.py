"""Hosts that fail for a moment, are slow, or would be asked too much at once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from corpus import web


class Host(BaseHTTPRequestHandler):
    """/fails/N/STATUS answers N times with a status, then well; /cut/N closes N times half-way; /slow takes a while."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[Counter[str]] = Counter()
    at_once = most = 0
    connections: ClassVar[set[object]] = set()
    lock = threading.Lock()

    def do_GET(self) -> None:
        with Host.lock:
            Host.asked[self.path] += 1
            Host.connections.add(self.client_address)
            Host.at_once += 1
            Host.most = max(Host.most, Host.at_once)
            times = Host.asked[self.path]
        try:
            kind, *rest = self.path.strip("/").split("/")
            if kind == "slow":
                time.sleep(0.05)
            if kind == "fails" and times <= int(rest[0]):
                self.send_response(int(rest[1]))
                self.send_header("Content-Length", "0")
                self.send_header("Retry-After", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", "7")
            self.end_headers()
            if kind == "cut" and times <= int(rest[0]):
                self.wfile.write(b"pic")
                self.close_connection = True
                return
            self.wfile.write(b"picture")
        finally:
            with Host.lock:
                Host.at_once -= 1

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(web, "_PAUSES", (0.01, 0.02))
    Host.asked, Host.connections, Host.most = Counter(), set(), 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["/fails/2/503", "/fails/1/429", "/cut/1"])
def test_what_passes_is_tried_again(host: str, path: str) -> None:
    assert web.fetch(host + path) == b"picture"
    assert Host.asked[path] == int(path.split("/")[2]) + 1


@pytest.mark.parametrize(
    ("path", "reason", "times"),
    [("/fails/9/503", "503, 3 times", 3), ("/fails/9/404", "answered 404", 1), ("/cut/9", "RemoteProtocolError", 3)],
)
def test_what_stays_is_said(host: str, path: str, reason: str, times: int) -> None:
    with pytest.raises(ValueError, match=reason):
        web.fetch(host + path)
    assert Host.asked[path] == times


def test_many_at_once_but_not_too_many_over_few_connections(host: str) -> None:
    with ThreadPoolExecutor(40) as pool:
        found = list(pool.map(lambda n: web.fetch(f"{host}/slow/{n}"), range(80)))
    assert found == [b"picture"] * 80
    assert 4 < Host.most <= 16
    assert len(Host.connections) <= 20
