"""Who gets in: every route, with every kind of key, against a real server; and what the log tells of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi.testclient import TestClient

from service import keys
from service.access import check_exposure, needed
from service.app import create_app
from service.keys import KeysError
from service.refusals import REFUSALS
from service.settings import Settings
from tests.service.conftest import Serve

OPEN = {"/", "/healthz", "/readyz", "/docs", "/openapi.json", "/page", "/docs/static"}
ADMIN = {"/metrics", "/v1/index/reload"}
SEARCH = {
    "/v1/search/{target}", "/v1/embeddings", "/v1/rank", "/v1/images/{id}", "/v1/images/{id}/thumbnail",
    "/v1/images/{id}/content", "/v1/index",
}  # fmt: skip


def paths(routes: Any) -> Iterator[str]:
    for route in routes:
        if hasattr(route, "path"):
            yield route.path.replace(":path}", "}")
        elif hasattr(route, "original_router"):
            yield from paths(route.original_router.routes)
        else:
            raise AssertionError(f"a route without a path: {route}")


def test_every_route_is_known_here_and_has_its_right() -> None:
    """A route that is added must be put into one of the three sets, with its right in `access`."""
    app = create_app(Settings(index=Path("none")))
    assert {path.rstrip("/") or "/" for path in paths(app.routes)} == OPEN | ADMIN | SEARCH
    for path in OPEN:
        assert needed(path if path not in ("/page", "/docs/static") else f"{path}/app.js") is None
    assert {needed(path) for path in ADMIN} == {"admin"}
    assert {needed(path) for path in SEARCH} == {"search"}
    assert needed("/metrics/") == "admin"
    for unknown in ("", "/v2", "/page", "/pages/x", "/docsx", "/redoc", "//", "/page/../metrics/../v1"):
        assert needed(unknown) == ("search" if not unknown.startswith("/page/") else None)


class Guarded(NamedTuple):
    url: str
    log: Path
    file: Path
    search: str
    admin: str


@pytest.fixture(scope="module")
def guarded(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    file, log = folder / "keys.json", folder / "log"
    search, _ = keys.create(file, "search", "shop")
    admin, _ = keys.create(file, "admin", "ops\nforged")
    with serve(log, CROSSMODAL_KEYS_FILE=str(file)) as url:
        yield Guarded(url, log, file, search, admin)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def problem(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    return str(answer.json()["detail"])


def ask(client: httpx.Client, path: str, key: str | None) -> httpx.Response:
    id = "nothing"
    calls: dict[str, tuple[str, Any]] = {
        "/v1/search/{target}": ("POST", {"query": {"text": "a star"}}),
        "/v1/embeddings": ("POST", {"input": "a star"}),
        "/v1/rank": ("POST", {"text": "a star", "images": [{"id": id}]}),
        "/v1/index/reload": ("POST", None),
    }
    method, body = calls.get(path, ("GET", None))
    url = path.replace("{target}", "images").replace("{id}", id)
    if url in ("/page", "/docs/static"):
        url += {"/page": "/app.js", "/docs/static": "/swagger-ui.css"}[url]
    return client.request(method, url, json=body, headers=bearer(key) if key else {})


@pytest.mark.parametrize("path", sorted(OPEN | ADMIN | SEARCH))
def test_every_route_with_every_key(guarded: Guarded, path: str) -> None:
    good = {200, 404}  # 404 is of the id that is not there
    with httpx.Client(base_url=guarded.url, timeout=30) as client:
        statuses = [ask(client, path, key).status_code for key in (None, "cmk_none", guarded.search, guarded.admin)]
    if path in OPEN:
        assert statuses == [200] * 4
    elif path in SEARCH:
        assert statuses[:2] == [401, 401]
        assert set(statuses[2:]) <= good
    else:
        assert statuses == [401, 401, 403, 200]


def test_refusals_say_what_to_do(guarded: Guarded) -> None:
    nobody = httpx.get(f"{guarded.url}/v1/index")
    assert "Authorization: Bearer" in problem(nobody, 401)
    assert nobody.headers["www-authenticate"] == 'Bearer realm="crossmodal"'
    bad = httpx.get(f"{guarded.url}/v1/index", headers=bearer("cmk_x"))
    assert "invalid_token" in bad.headers["www-authenticate"]
    little = httpx.get(f"{guarded.url}/metrics", headers=bearer(guarded.search))
    assert "admin" in problem(little, 403)
    assert "insufficient_scope" in little.headers["www-authenticate"]
    counted = httpx.get(f"{guarded.url}/metrics", headers=bearer(guarded.admin)).text
    for reason in ("no_key", "bad_key", "scope"):
        assert f'crossmodal_refusals_total{{reason="{reason}"}}' in counted


def test_what_a_browser_keeps_it_shows_to_the_same_key_alone(guarded: Guarded) -> None:
    with httpx.Client(base_url=guarded.url, headers=bearer(guarded.search)) as client:
        (hit,) = client.get("/v1/search/images?text=a+star&k=1").json()["hits"]
        for what in ("content", "thumbnail"):
            headers = client.get(f"/v1/images/{hit['id']}/{what}").headers
            assert (headers["cache-control"], headers["vary"]) == ("private, max-age=86400", "Authorization")


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Basic {key}")],
        [("Authorization", "{key}")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer {key} x")],
        [("Authorization", "Bearer {key}"), ("Authorization", "Bearer {key}")],
        [("Authorization", "Bearer cmk_x"), ("Authorization", "Bearer {key}")],
        [("X-API-Key", "{key}")],
        [("Cookie", "key={key}")],
        [("X-Forwarded-For", "127.0.0.1"), ("X-Real-IP", "127.0.0.1")],
        [("X-Original-URL", "/healthz"), ("X-Rewrite-URL", "/healthz")],
    ],
)
def test_only_one_bearer_header_opens(guarded: Guarded, headers: list[tuple[str, str]]) -> None:
    filled = [(name, value.format(key=guarded.admin)) for name, value in headers]
    problem(httpx.get(f"{guarded.url}/v1/index", headers=filled), 401)
    problem(httpx.get(f"{guarded.url}/v1/index?key={guarded.admin}&access_token={guarded.admin}"), 401)


@pytest.mark.parametrize(
    "target",
    ["/metrics", "/metrics/", "/%6detrics", "/metrics?", "/metrics;x", "//metrics", "/page/../metrics",
     "/page/%2e%2e/metrics", "/docs/static/../../metrics", "/healthz/../metrics", "/./metrics", "/METRICS",
     "/page/..%2fmetrics", "http://x/metrics", "/healthz%2f..%2fmetrics", "/metrics%00", "/healthz\\..\\metrics"],
)  # fmt: skip
def test_no_spelling_of_a_path_slips_past(guarded: Guarded, target: str) -> None:
    import socket

    host, port = guarded.url.removeprefix("http://").split(":")
    for key in ("cmk_none", guarded.search):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(
                f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n".encode()
            )
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        assert b"crossmodal_requests_total" not in answer
        assert answer.split()[1] in (b"400", b"401", b"403", b"404", b"307"), answer[:200]


def test_a_key_is_good_and_gone_without_a_restart(guarded: Guarded) -> None:
    text, key = keys.create(guarded.file, "search", "passing")

    def status() -> int:
        return httpx.get(f"{guarded.url}/v1/index", headers=bearer(text)).status_code

    def comes(wanted: int) -> bool:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            if status() == wanted:
                return True
            time.sleep(0.05)
        return False

    assert comes(200)
    keys.revoke(guarded.file, key.prefix)
    assert comes(401)


def test_the_log_tells_who_operated_and_holds_no_key_and_no_query(guarded: Guarded) -> None:
    sentinel = "zebra-crossing-of-queries"
    with httpx.Client(base_url=guarded.url, timeout=30) as client:
        for key in (guarded.search, guarded.admin, f"cmk_{sentinel}"):
            client.post("/v1/search/images", json={"query": {"text": sentinel}}, headers=bearer(key))
            client.post("/v1/search/images", content=f'{{"{sentinel}', headers=bearer(key))
            client.get(f"/v1/search/images?text={sentinel}&filter=[", headers=bearer(key))
        forged = {**bearer(guarded.admin), "X-Request-ID": "audited-1"}
        client.post(f"/v1/index/reload?x={sentinel}", headers=forged)
        client.post("/v1/index/reload", headers={**bearer(guarded.search), "X-Request-ID": "audited-2"})
        client.post("/v1/index/reload", headers={"X-Request-ID": "audited-3"})
        client.get("/metrics", headers={**bearer(guarded.admin), "X-Request-ID": "audited-4"})
    text = guarded.log.read_text()
    for secret in (guarded.search, guarded.admin, guarded.search.split("_", 2)[2], sentinel):
        assert secret not in text
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    told = {line["request_id"]: line for line in lines if line.get("request_id", "").startswith("audited")}
    assert (
        {id: (line["result"], line["who"]) for id, line in told.items()}
        == {
            "audited-1": (200, f"{guarded.admin[:12]} (ops\nforged)"),  # a name with a line's end makes no second line
            "audited-2": (403, f"{guarded.search[:12]} (shop)"),
            "audited-3": (401, "nobody"),
        }
    )
    assert told["audited-1"]["event"] == "POST /v1/index/reload"
    assert told["audited-1"]["address"] == "127.0.0.1"


def test_metrics_may_be_left_open(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    text, _ = keys.create(file, "search")
    settings = Settings(index=Path("none"), keys_file=file, metrics_open=True)
    client = TestClient(create_app(settings))
    assert client.get("/metrics").status_code == 200
    assert client.post("/v1/index/reload").status_code == 401
    assert client.post("/v1/index/reload", headers=bearer(text)).status_code == 403


def test_a_path_below_a_root_path_needs_the_same_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    text, _ = keys.create(file, "search")
    app = create_app(Settings(index=Path("none"), keys_file=file))
    client = TestClient(app, root_path="/found/here")
    assert client.get("/found/here/metrics").status_code == 401
    assert client.get("/found/here/metrics", headers=bearer(text)).status_code == 403
    assert client.get("/found/here/healthz").status_code == 200


def test_what_is_refused_is_not_read(tmp_path: Path) -> None:
    import asyncio

    file = tmp_path / "keys.json"
    keys.create(file, "search")
    app = create_app(Settings(index=Path("none"), keys_file=file))
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was asked for")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/search/images", "headers": [], "query_string": b"",
             "client": ("127.0.0.1", 1)}  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 401


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    check_exposure(Settings(index=Path("none")), host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.168.1.2", "10.0.0.1", "localhost.example", "::ffff:1.2.3.4"]
)
def test_a_network_needs_keys_or_a_word(host: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--insecure"):
        check_exposure(Settings(index=Path("none")), host)
    check_exposure(Settings(index=Path("none"), insecure=True), host)
    check_exposure(Settings(index=Path("none"), keys_file=tmp_path / "keys.json"), host)


def test_serve_refuses_in_one_line(index: Path, free_port: int, tmp_path: Path) -> None:
    def serve(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        import os

        command = [sys.executable, "-m", "crossmodal", "serve", str(index), "--port", str(free_port), *arguments]
        return subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=60)

    exposed = serve("--host", "0.0.0.0")
    missing = serve(CROSSMODAL_KEYS_FILE=str(tmp_path / "none.json"))
    token = serve(CROSSMODAL_JWT_JWKS_URL="https://issuer.example/jwks")
    limit = serve(CROSSMODAL_RATE_LIMIT="lots")
    hosts = serve(CROSSMODAL_IMAGE_URL_HOSTS='["https://a.example/"]')
    workers = serve(CROSSMODAL_REDIS_URL="redis://:secret@redis:no port", CROSSMODAL_WORKERS="2")
    assert "secret" not in workers.stderr
    for done, words in [(workers, "REDIS_URL"), (exposed, "--insecure"), (missing, "none.json"), (token, "JWT_ISSUER"), (limit, "lots"),
                        (hosts, "IMAGE_URL_HOSTS")]:  # fmt: skip
        assert done.returncode == 1
        assert words in done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")


def test_insecure_serves_beyond_this_machine(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path / "log", "--host", "0.0.0.0", "--insecure") as url:
        assert httpx.get(f"{url}/v1/index").status_code == 200


def test_a_missing_file_of_keys_stops_the_app(tmp_path: Path) -> None:
    with pytest.raises(KeysError):
        create_app(Settings(index=Path("none"), keys_file=tmp_path / "none.json"))


def test_too_large_bodies_are_counted(tmp_path: Path) -> None:
    before = REFUSALS.labels("too_large")._value.get()
    client = TestClient(create_app(Settings(index=Path("none"), max_body_bytes=10)))
    assert client.post("/v1/search/images", content=b"x" * 11).status_code == 413
    assert REFUSALS.labels("too_large")._value.get() == before + 1
