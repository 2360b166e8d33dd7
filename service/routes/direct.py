"""Searches by POST, nearly all of a service's requests, past FastAPI: its layers for errors and files that are to be
closed, its matching of routes and solving of dependencies.

These took more than two fifths of the event loop's time for a search. The route itself still describes the call, and
answers where the path is spelt in another way.
"""

from __future__ import annotations

from typing import get_args

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.finder import Target
from service.routes.search import router, search

_TARGETS: dict[str, Target] = {f"{router.prefix}/{target}": target for target in get_args(Target)}
_ROUTE = next(route for route in router.routes if getattr(route, "endpoint", None) is search)


class Direct:
    """Pure ASGI. Answers exceptions as the application's own handlers do."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        target = _TARGETS.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if target is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = _ROUTE
        request = Request(scope, receive)
        try:
            response = await search(target, request, request.app.state.engine)
        except Exception as error:
            handlers = request.app.exception_handlers
            kind = next(kind for kind in type(error).__mro__ if kind in handlers)
            response = await handlers[kind](request, error)
            if kind is Exception:
                await response(scope, receive, send)
                raise
            error.__traceback__ = None  # it holds this frame, and so the request, in a circle
        await response(scope, receive, send)
