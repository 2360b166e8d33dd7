"""Clients that send or read slowly, or hold connections, over real sockets against a real server."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from service.app import create_app
from service.connections import TimedProtocol
from service.loop_lag import LoopLoad
from service.refusals import REFUSALS
from service.settings import Settings
from tests.service.conftest import Serve


def start(index: Path, port: int, **settings: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **{f"CROSSMODAL_{name.upper()}": value for name, value in settings.items()}}
    command = [sys.executable, "-m", "crossmodal", "serve", str(index), "--port", str(port)]
    # Not a pipe: one that nobody reads stops a server that has much to complain of.
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115
    process = subprocess.Popen(command, env=environment, stderr=log, text=True)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200:
                return process
        except httpx.TransportError:
            log.seek(0)
            assert process.poll() is None, log.read()
            time.sleep(0.05)
    process.kill()
    pytest.fail("not ready in 60 s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def port(index: Path) -> Iterator[int]:
    port = free_port()
    process = start(index, port, body_timeout="1", max_connections="20")
    yield port
    process.terminate()
    process.communicate(timeout=30)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 10)


def until_closed(client: socket.socket) -> tuple[bytes, float]:
    """What still came, and after how long the server hung up."""
    began, seen = time.monotonic(), b""
    client.settimeout(10)
    try:
        while data := client.recv(65536):
            seen += data
    except ConnectionResetError:
        pass
    return seen, time.monotonic() - began


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def refusals(port: int, reason: str) -> float:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    line = f'crossmodal_refusals_total{{reason="{reason}"}} '
    return sum(float(each[len(line) :]) for each in text.splitlines() if each.startswith(line))


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_must_come_in_time(port: int, sent: bytes) -> None:
    before = refusals(port, "slow_head")
    with connect(port) as client:
        client.sendall(sent)
        seen, seconds = until_closed(client)
    assert seen == b""
    assert 0.5 < seconds < 5
    assert refusals(port, "slow_head") == before + 1


def test_a_head_that_trickles_is_not_enough(port: int) -> None:
    def trickle(client: socket.socket) -> None:
        while time.monotonic() - began < 8:
            client.sendall(b"G")
            time.sleep(0.1)

    with connect(port) as client:
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            trickle(client)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_half_sent_body_is_answered_408_and_closed(port: int, framing: str) -> None:
    with connect(port) as client:
        client.sendall(f"POST /v1/search/images HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
        client.sendall(b'2\r\n{"\r\n' if "chunked" in framing else b'{"')
        seen, seconds = until_closed(client)
    head, _, body = seen.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in head
    assert b"connection: close" in head.lower()
    assert "the body did not come in 1 s" in json.loads(body)["detail"]
    assert 0.5 < seconds < 5


@pytest.mark.parametrize("sent", [b"\0" * 100, b"GET / HTTP/1.1\r\nA b: c\r\n\r\n",
                                  b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
                                  b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"])  # fmt: skip
def test_what_is_not_http_is_a_problem_too(port: int, sent: bytes) -> None:
    with connect(port) as client:
        client.sendall(sent)
        head, _, body = until_closed(client)[0].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["status"] == 400


@pytest.mark.parametrize("endless", [b"GET /" + b"a" * 2**17, b"GET / HTTP/1.1\r\nX: " + b"a" * 2**17, b"\r\n" * 2**16,
                                     b"POST /v1/rank HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"a" * 2**18])  # fmt: skip
def test_a_head_without_an_end_is_refused_while_it_comes(port: int, endless: bytes) -> None:
    before = refusals(port, "too_large")
    with connect(port) as client, contextlib.suppress(ConnectionError):
        client.sendall(endless)
        assert until_closed(client)[0][:13] in (b"HTTP/1.1 431 ", b"")
    assert refusals(port, "too_large") == before + 1


def test_few_requests_may_wait_behind_one(port: int) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(port) as client:
        client.sendall(20 * request + request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert until_closed(client)[0].count(b"HTTP/1.1 200 ") == 21
    with connect(port) as client:
        client.sendall(1000 * request)
        assert until_closed(client)[0].count(b"HTTP/1.1 ") <= 35


@pytest.mark.parametrize(
    "framing", ["Content-Length: {size}\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n"]
)
def test_a_request_that_would_upgrade_is_answered_with_its_body(port: int, framing: str) -> None:
    """Java's client asks for HTTP/2 so; its body was left out, and what came later of it taken for another request."""
    body = b'{"query": {"text": "a red star"}, "k": 1}'
    head = "POST /v1/search/images HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    with connect(port) as client:
        for pause in (0, 0.1):
            client.sendall((head + framing.format(size=len(body))).encode())
            time.sleep(pause)
            client.sendall(body + (b"\r\n0\r\n\r\n" if "chunked" in framing else b""))
            seen = b""
            while not seen.endswith(b"}}"):
                seen += client.recv(65536)
            assert seen.startswith(b"HTTP/1.1 200 ")
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert until_closed(client)[0].count(b"HTTP/1.1 ") == 1


def test_a_head_comes_in_one_piece_with_its_body_and_alone_where_there_is_none(port: int) -> None:
    with connect(port) as client:
        for method, size in (("GET", 18), ("HEAD", 0), ("GET", 18)):
            client.sendall(f"{method} /healthz HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head, _, body = client.recv(65536).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 405 " if method == "HEAD" else b"HTTP/1.1 200 ")
            assert len(body) == size
        client.sendall(
            b"POST /v1/search/images HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"{}")
        assert client.recv(65536).startswith(b"HTTP/1.1 422 ")
        client.sendall(b"POST /v1/search/images HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}")
        assert until_closed(client)[0].startswith(b"HTTP/1.1 422 ")  # HTTP/1.0 has no 100


@pytest.mark.parametrize(
    "head", ["GET /healthz HTTP/1.0\r\nConnection: upgrade", "GET /healthz HTTP/1.1\r\nConnection: close, upgrade"]
)
def test_a_last_request_that_would_upgrade_is_answered_too(port: int, head: str) -> None:
    with connect(port) as client:
        client.sendall(f"{head}\r\nUpgrade: h2c\r\n\r\n".encode())
        assert until_closed(client)[0].startswith(b"HTTP/1.1 200 ")


def test_what_trails_a_body_is_no_header(port: int) -> None:
    """A proxy that sets or strips a header lets another of that name pass there: a key, an X-Forwarded-For."""
    body = b'{"query": {"text": "a red star"}, "k": 1}'
    with connect(port) as client:
        for end in (b"\r\n", b"X-Request-ID: forged\r\nX-Request-Timeout: never\r\n\r\n"):
            client.sendall(
                b"POST /v1/search/images HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"%x\r\n%b\r\n0\r\n%b" % (len(body), body, end)
            )
            answer = client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"x-request-id: mine\r\n" in answer


@pytest.mark.parametrize(
    ("then", "late"),
    [
        (b"\0nonsense\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 2**17, False),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab", False),
        (b"\0nonsense\r\n\r\n", True),
    ],
)
def test_nonsense_takes_the_place_of_no_answer_before_it(port: int, then: bytes, late: bool) -> None:
    """It was answered 400 in the place of the first request, or in the middle of its answer."""
    queries = [{"text": f"star {number}"} for number in range(64)]
    body = json.dumps({"queries": queries[: 16 if late else 1], "k": 60, "include": ["vector"]}).encode()
    request = b"POST /v1/search/images HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    seen = b""
    with connect(port) as client:
        client.sendall(2 * request + (b"" if late else then))
        if late:
            seen = client.recv(1000)
            client.sendall(then)
        seen += until_closed(client)[0]
    statuses = []
    while seen:
        head, _, seen = seen.partition(b"\r\n\r\n")
        statuses.append(head.split()[1])
        seen = seen[int(head.lower().split(b"content-length: ")[1].split()[0]) :]
    assert statuses == [b"200", b"200"]


@pytest.mark.parametrize("size", [10, 100_000])  # of a piece, in bytes
def test_a_request_sent_in_pieces_but_in_time_is_answered(port: int, size: int) -> None:
    body = b'{"query": {"text": "a red star"}, "k":' + 4 * size * b" " + b"1}"
    with connect(port) as client:
        client.sendall(b"POST /v1/search/images HTTP/1.1\r\nHo")
        time.sleep(0.05)
        client.sendall(f"st: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        for start in range(0, len(body), size):
            time.sleep(0.01)
            client.sendall(body[start : start + size])
        seen, _ = until_closed(client)
    assert seen.startswith(b"HTTP/1.1 200 ")


def test_a_client_that_does_not_read_is_hung_up_on(port: int) -> None:
    before = refusals(port, "slow_reader")
    body = json.dumps({"queries": [{"text": f"star {n}"} for n in range(64)], "k": 60, "include": ["vector"]}).encode()
    request = b"POST /v1/search/images HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(request)
        until = time.monotonic() + 15
        while refusals(port, "slow_reader") == before and time.monotonic() < until:
            time.sleep(0.1)
    assert refusals(port, "slow_reader") == before + 1


def test_a_client_that_reads_slowly_but_reads_gets_all(port: int) -> None:
    """Of an answer that it takes twice the time for that it may take nothing in."""
    before = refusals(port, "slow_reader")
    body = json.dumps({"queries": [{"text": f"star {n}"} for n in range(64)], "k": 60, "include": ["vector"]}).encode()
    head = b"POST /v1/search/images HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.settimeout(10)
        client.connect(("127.0.0.1", port))
        client.sendall(head + body)
        seen = bytearray()
        while piece := client.recv(65536):
            seen += piece
            time.sleep(len(piece) / 4e6)
    told, _, answer = bytes(seen).partition(b"\r\n\r\n")
    assert int(told.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) == len(answer) > 8e6
    assert refusals(port, "slow_reader") == before


def test_beyond_the_most_connections_the_idle_give_way_to_the_new(port: int) -> None:
    before = refusals(port, "connections")
    held = [socket.socket() for _ in range(200)]
    try:
        for each in held:  # all at once: a round of the loop accepts many
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        with connect(port) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert until_closed(client)[0].startswith(b"HTTP/1.1 200 ")
        assert until_closed(held[0])[1] < 0.5  # long since
        assert sum(is_open(each) for each in held) <= 20
    finally:
        for each in held:
            each.close()
    assert refusals(port, "connections") >= before + 181


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_error(port: int) -> None:
    def counted(status: int) -> float:
        lines = httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
        counts = [
            line for line in lines if line.startswith("crossmodal_requests_total{") and f'status="{status}"' in line
        ]
        return sum(float(line.rpartition(" ")[2]) for line in counts)

    before = counted(499)
    for kind in ("application/json", "multipart/form-data; boundary=x"):
        with connect(port) as client:
            head = f"POST /v1/search/images HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: 1000\r\n\r\n"
            client.sendall(head.encode() + b"--x\r\n")
            time.sleep(0.2)
    until = time.monotonic() + 20
    while counted(499) < before + 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert counted(499) == before + 2
    assert not counted(500)


def test_clients_that_leave_with_requests_in_the_pipeline_are_no_errors(serve: Serve, tmp_path: Path) -> None:
    """Only the last request was told of it, and the first answered into a closed connection, with a traceback."""
    log = tmp_path / "log"
    queries = [{"text": f"{number} " + "star " * 100} for number in range(64)]  # 0.1 s and more
    body = json.dumps({"queries": queries, "include": ["vector"]}).encode()
    search = b"POST /v1/search/images HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with serve(log, CROSSMODAL_CACHE_BYTES="0") as url:
        port = int(url.rpartition(":")[2])
        for number in range(24):
            with connect(port) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset
                client.sendall(search * (2 if number % 2 else 1) + b"GET /page/app.js HTTP/1.1\r\nHost: x\r\n\r\n")
                time.sleep(0.01 * (number % 12))
        time.sleep(0.5)
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        assert any('status="499"' in line for line in lines if line.startswith("crossmodal_requests_total"))
        assert not any('status="500"' in line for line in lines)
    assert "Traceback" not in log.read_text()
    assert "ASGI" not in log.read_text()


def test_keep_alive_goes_on_after_answers_of_every_kind(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        for _ in range(3):
            assert client.get("/v1/search/images?text=a+star&k=1").status_code == 200
            assert client.get("/nowhere").status_code == 404
            assert client.post("/v1/search/images", content=b"{").status_code == 400
            time.sleep(0.6)  # the head's time starts anew with every answer


def test_what_the_loop_has_no_time_for_is_refused_at_its_head(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(index=index))
    busy = [True]
    monkeypatch.setattr(LoopLoad, "full", property(lambda self: busy[0]))
    monkeypatch.setattr(TimedProtocol, "load", app.state.load)
    port = free_port()
    config = uvicorn.Config(app, http=TimedProtocol, loop="uvloop", port=port, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until = time.monotonic() + 30
        while not server.started and time.monotonic() < until:
            time.sleep(0.02)
        body = {"query": {"text": "a red star"}}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            before = REFUSALS.labels("loop")._value.get()
            for _ in range(2):  # a connection's first request, and one after it
                refused = client.post("/v1/search/images", json=body, headers={"X-Request-ID": "mine"})
                assert refused.status_code == 503
                assert refused.headers["content-type"] == "application/problem+json"
                assert refused.headers["x-request-id"] == refused.json()["request_id"] == "mine"
                assert int(refused.headers["retry-after"]) > 0
            assert REFUSALS.labels("loop")._value.get() == before + 2
            assert client.get("/readyz").status_code == 200
            busy[0] = False
            assert client.post("/v1/search/images", json=body).status_code == 200
            busy[0] = True
            assert client.post("/v1/search/images", content=b"x" * 300_000).status_code == 503
            assert client.get("/readyz").status_code == 200
            assert client.head("/v1/search/images").status_code == 503  # without a body, or the next would be misread
            assert client.post("/%761/search/images", json=body).status_code == 503
            assert client.get("/page/app.js").status_code == 503  # as dear as a search, and anybody's
            assert client.get("/readyz").status_code == 200
            with connect(port) as old:
                old.sendall(b"POST /v1/search/images HTTP/1.0\r\nContent-Length: 1\r\n\r\nx")
                assert until_closed(old)[0].startswith(b"HTTP/1.1 503 ")
            upgrade = b"GET /v1/index HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
            with connect(port) as many:  # each was read within the one before
                many.sendall(1000 * upgrade)
                assert until_closed(many)[0].count(b"HTTP/1.1 503 ") == 1
            before = REFUSALS.labels("slow_reader")._value.get()
            with socket.socket() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.connect(("127.0.0.1", port))
                deaf.settimeout(5)
                with pytest.raises(ConnectionError):
                    deaf.sendall(1_000_000 * b"GET /v1/index HTTP/1.1\r\n\r\n")
            assert REFUSALS.labels("slow_reader")._value.get() == before + 1
    finally:
        server.should_exit = True
        thread.join(30)
