"""The application as a whole."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import httpx
import uvloop
from fastapi.testclient import TestClient
from starlette.requests import Request

from service.admission import Allowance
from service.app import create_app
from service.engine import Engine
from service.errors import Problem
from service.settings import Settings


def test_a_request_is_freed_as_it_ends(index: Path) -> None:
    """Without the garbage collector, which would stop the loop, and seldom comes while a body of 20 MB is held."""
    settings = Settings(index=index, decoder_processes=0, cache_bytes=0)  # no query is answered at once
    search = {"query": {"text": "a red star"}, "k": 1}
    calls = (
        ("POST", "/v1/search/images", {"json": search}, 200),
        ("POST", "/v1/search/images", {"json": {**search, "query": {}}}, 422),
        ("POST", "/v1/search/images", {"json": {**search, "query": [{"text": "a"}, {"vector": [1]}]}}, 422),
        ("POST", "/v1/search/images", {"content": "{"}, 400),
        ("POST", "/v1/search/images", {"files": {"image": b"no picture"}}, 422),
        ("POST", "/v1/search/images", {"json": search, "headers": {"X-Request-Timeout": "-1"}}, 422),
        ("POST", "/v1/search/images", {"json": search, "headers": {"X-Request-Timeout": "0.000001"}}, 503),
        ("GET", "/v1/search/images?text=a+star&k=1", {}, 200),
        ("GET", "/v1/images/nothing", {}, 404),
    )

    def held() -> int:
        return sum(isinstance(each, (Request, Problem, Allowance)) for each in gc.get_objects())

    async def left() -> list[tuple[Any, ...]]:
        app = create_app(settings, Engine(settings))
        found = []
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
        ):
            for method, path, options, status in calls:
                before = held()
                for _ in range(5):
                    answer = await asyncio.create_task(client.request(method, path, **options))
                    assert answer.status_code == status, answer.text
                await asyncio.sleep(0.05)  # threads let go of it a moment later
                found.append((path, list(options), status, held() - before))
        return found

    gc.disable()
    try:
        assert [each for each in uvloop.run(left()) if each[-1] > 1] == []
    finally:
        gc.enable()


def test_an_app_that_is_started_again_answers(index: Path) -> None:
    app = create_app(Settings(index=index, decoder_processes=0))
    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/v1/search/images?text=a+star&k=1").status_code == 200
