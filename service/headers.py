"""What every answer tells a browser not to do with it."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

# Answers are data: nothing in one is run or framed. The page and /docs have policies of their own.
_DATA_POLICY = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; sandbox"
_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
]
# For the answer to an unforeseen error, which Starlette sends past every middleware.
ON_FAILURE = {name.decode(): value.decode() for name, value in [*_ALWAYS, (b"content-security-policy", _DATA_POLICY)]}


class SecurityHeaders:
    """Pure ASGI. `shared` are answers that other sites may embed: where CORS names any."""

    def __init__(self, app: ASGIApp, shared: bool) -> None:
        self.app = app
        self._always = [*_ALWAYS, (b"cross-origin-resource-policy", b"cross-origin" if shared else b"same-origin")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                message["headers"] = [*headers, *self._always]
                if not any(name == b"content-security-policy" for name, _ in headers):
                    message["headers"].append((b"content-security-policy", _DATA_POLICY))
            await send(message)

        await self.app(scope, receive, guarded)
