"""What answers forbid a browser, on every kind of answer; which other sites may call; that pages load nothing from afar."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.middleware import REQUESTS
from service.settings import Settings

SITE = "https://shop.example"


@pytest.fixture(scope="module")
def closed() -> TestClient:
    return TestClient(create_app(Settings(index=Path("none"), max_body_bytes=10)))


@pytest.fixture(scope="module")
def shared() -> TestClient:
    return TestClient(create_app(Settings(index=Path("none"), cors_origins=[SITE], rate_limit="3/hour")))


@pytest.fixture(scope="module")
def live(live_server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live_server, timeout=30) as client:
        yield client


def check(answer: httpx.Response, *, sandboxed: bool = True) -> None:
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert "camera=()" in answer.headers["permissions-policy"]
    assert len(answer.headers.get_list("content-security-policy")) == 1
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert ("sandbox" in policy) == sandboxed


def test_every_kind_of_answer_has_them(live: httpx.Client) -> None:
    id = live.get("/v1/search/images?text=x&k=1").json()["hits"][0]["id"]
    for path in ("/v1/index", "/v1/search/images?text=x", f"/v1/images/{id}", f"/v1/images/{id}/content",
                 f"/v1/images/{id}/thumbnail", "/v1/images/nothing", "/nowhere", "/healthz", "/metrics", "/page/app.js",
                 "/openapi.json", "/page/nothing"):  # fmt: skip
        check(live.get(path))
    check(live.post("/v1/search/images", content=b"{"))
    check(live.post("/v1/search/images", content=b"x" * (5 * 2**20)))  # 413
    for page in ("/", "/docs"):
        check(live.get(page), sandboxed=False)
        assert "script-src 'self';" in live.get(page).headers["content-security-policy"]


def test_the_answer_to_an_unforeseen_error_too() -> None:
    client = TestClient(create_app(Settings(index=Path("none"))), raise_server_exceptions=False)
    answer = client.get("/v1/index")  # the app was never started, so there is no engine
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    check(answer)


def test_no_page_names_another_host(live: httpx.Client) -> None:
    for path in ("/", "/docs", "/page/app.js", "/page/docs.js", "/page/style.css"):
        text = live.get(path).text
        assert not [word for word in ("http://", "https://", 'src="//', 'href="//') if word in text], path
    assert live.get("/redoc").status_code == 404
    assert "SwaggerUI" in live.get("/docs/static/swagger-ui-bundle.js").text


def test_other_sites_are_told_nothing(closed: TestClient) -> None:
    answer = closed.get("/healthz", headers={"Origin": SITE})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    asked = closed.options("/v1/search/images", headers={"Origin": SITE, "Access-Control-Request-Method": "POST"})
    assert asked.status_code == 405
    assert not [name for name in asked.headers if name.startswith("access-control")]


def test_named_sites_may_call_and_read_why_they_were_refused(shared: TestClient) -> None:
    before = {
        "Origin": SITE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    counted = REQUESTS.labels("-", "other", 200)._value
    already = counted.get()
    for _ in range(5):  # what a browser asks first needs no key, and is under no limit
        asked = shared.options("/v1/search/images", headers={**before, "X-Request-ID": "mine"})
        assert (asked.status_code, asked.headers["x-request-id"]) == (200, "mine")
        check(asked)
        assert asked.headers["access-control-allow-origin"] == SITE
        assert "authorization" in asked.headers["access-control-allow-headers"].lower()
    assert counted.get() == already + 5
    answers = [shared.get("/nowhere", headers={"Origin": SITE}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [404] * 3 + [429]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == SITE
        assert "ratelimit" in answer.headers["access-control-expose-headers"].lower()
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    refused = shared.get("/healthz", headers={"Origin": SITE, "X-Request-Timeout": "soon"})  # by the guard
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (422, SITE)
    for stranger in ("https://evil.example", "http://shop.example", "https://shop.example.evil.example", "null"):
        assert "access-control-allow-origin" not in shared.get("/healthz", headers={"Origin": stranger}).headers
        assert shared.options("/v1/rank", headers={**before, "Origin": stranger}).status_code == 400


def test_the_document_tells_of_the_key(closed: TestClient) -> None:
    assert closed.get("/openapi.json").json()["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
