"""The ASGI application: `create_app(settings)`, or `uvicorn --factory service.app:create_app`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from pydantic.json_schema import models_json_schema
from starlette.types import ASGIApp, Receive, Scope, Send

from service import documentation, problems
from service.access import Access, Gate
from service.engine import Engine
from service.loop_lag import LoopLoad
from service.middleware import RequestGuard
from service.observer import Observer, is_wanted
from service.problems import ProblemDetail
from service.routes import embeddings, images, operations, search
from service.routes.direct import Direct
from service.schemas import EmbeddingsRequest, RankRequest, SearchRequest
from service.settings import Settings
from service.tracing import Tracer
from service.watcher import watch_snapshots

_PAGE = Path(__file__).parent / "page"
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST"],
    "allow_headers": ["Authorization", "Content-Type", "X-Request-ID", "X-Request-Timeout"],
    "expose_headers": ["X-Request-ID", "Retry-After", "RateLimit", "RateLimit-Policy"],
}
# Objects. A request leaves none to be collected; those of a hundred in progress, looked through at every 700th new one,
# held the loop up for 5 to 90 ms at a time, a tenth of it all.
_GARBAGE = 10_000


class _Application(FastAPI):
    """What is `around` FastAPI sees requests first; FastAPI's own layers are for what `Direct` leaves to it."""

    around: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await (self.around if scope["type"] == "http" else super().__call__)(scope, receive, send)


def create_app(settings: Settings | None = None, engine: Engine | None = None) -> FastAPI:
    """Build the application. Raises ValueError for settings that cannot be kept.

    Unless an engine is given, or is in its `state` by then, the model and the snapshot are opened when it starts.
    """
    settings = settings or Settings()
    load = LoopLoad()
    tracer = Tracer() if settings.traces else None

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.engine = app.state.engine or Engine(settings)
        watch = asyncio.create_task(load.watch())
        look = watch_snapshots(app.state.engine, settings.watch_seconds, app.state.told_to_look)
        follow = asyncio.create_task(look)
        gc.collect()
        gc.freeze()  # what lives for ever is not looked through again: a full collection held the loop up for 50 ms
        often = gc.get_threshold()
        gc.set_threshold(_GARBAGE, *often[1:])
        try:
            yield
        finally:
            watch.cancel()
            follow.cancel()
            gc.set_threshold(*often)
            gc.unfreeze()
            app.state.engine.close()
            app.state.engine = None  # another start opens another
            if tracer is not None:
                await asyncio.to_thread(tracer.close)

    app = _Application(
        title="Crossmodal",
        version="1",
        description="Find pictures by words, words by pictures, and pictures by pictures.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses={
            "default": {
                "description": "what was wrong",
                "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetail"}}},
            }
        },
    )
    app.state.engine = engine
    app.state.draining = False
    app.state.load = load
    app.state.told_to_look = asyncio.Event()  # for a new snapshot
    cors = functools.partial(CORSMiddleware, allow_origins=settings.cors_origins, **_CORS)
    inner = Access(Direct(super(_Application, app).__call__), Gate(settings))
    app.around = RequestGuard(inner, settings, load, cors if settings.cors_origins else None)
    if is_wanted(settings):
        app.around = Observer(app.around, settings, tracer)
    problems.install(app)
    for module in (search, embeddings, images, operations):
        app.include_router(module.router)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        headers = {"Content-Security-Policy": _CONTENT_POLICY}
        return FileResponse(_PAGE / "index.html", headers=headers)

    documentation.install(app)
    openapi = app.openapi
    _, requests = models_json_schema(
        [(model, "validation") for model in (SearchRequest, EmbeddingsRequest, RankRequest, ProblemDetail)],
        ref_template="#/components/schemas/{model}",
    )

    def with_requests() -> dict[str, Any]:
        document = openapi()
        document["components"]["schemas"].update(requests["$defs"])
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{}, {"key": []}]
        return document

    app.openapi = with_requests  # type: ignore[method-assign]
    app.mount("/page", StaticFiles(directory=_PAGE, check_dir=False), name="page")
    return app
