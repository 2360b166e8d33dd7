"""Searches by POST, nearly all of a service's requests, past FastAPI's matching of routes and solving of dependencies.

These took two fifths of the event loop's time for a search. The route itself still describes the call, and answers
where the path is spelt in another way.
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
    """Pure ASGI, within what answers exceptions."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        target = _TARGETS.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if target is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = _ROUTE
        request = Request(scope, receive)
        response = await search(target, request, request.app.state.engine)
        await response(scope, receive, send)
