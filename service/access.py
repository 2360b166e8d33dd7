"""Who may do what, and how often: every request passes here before anything of it is read."""

from __future__ import annotations

import ipaddress
from collections.abc import MutableMapping
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from service import audit, refusals
from service.keys import KeyRing
from service.keys import Scope as Right
from service.problems import problem_response
from service.rate_limit import RateLimit
from service.settings import Settings
from service.tokens import TokenVerifier

# What tells nothing of what is indexed: the page's own files, the API's description, whether the process is well.
_OPEN = frozenset({"/", "/docs", "/openapi.json", "/healthz", "/readyz"})
_OPEN_BELOW = ("/page/", "/docs/")
_ADMIN = frozenset({"/metrics", "/v1/index/reload"})
_REALM = 'Bearer realm="crossmodal"'


class Caller(NamedTuple):
    """`who` is for logs; `identity` is what requests are counted under, with a `rate_limit` of its own or None."""

    who: str
    identity: str
    right: Right
    rate_limit: str | None = None


class _Refused(Exception):
    def __init__(self, status: int, reason: refusals.Reason, detail: str, headers: dict[str, str]) -> None:
        self.status, self.reason, self.detail, self.headers = status, reason, detail, headers


def needed(path: str) -> Right | None:
    """The right that a path needs: what is not known to be open or the operator's needs a key to search."""
    if path in _OPEN or path.startswith(_OPEN_BELOW):
        return None
    return "admin" if path.rstrip("/") in _ADMIN else "search"


def is_guarded(settings: Settings) -> bool:
    """Whether callers need a key or a token."""
    return settings.keys_file is not None or settings.jwt_jwks_url is not None


def check_exposure(settings: Settings, host: str) -> None:
    """Raises ValueError where everybody on a network could call, and nobody has said that they may."""
    if is_guarded(settings) or settings.insecure or _is_loopback(host):
        return
    raise ValueError(
        f"whoever reaches {host} could search and operate this index: make keys (crossmodal keys create) and set "
        "CROSSMODAL_KEYS_FILE, or say --insecure (CROSSMODAL_INSECURE=true) where a private network keeps others out"
    )


class Gate:
    """Knows every caller, and counts. Raises ValueError, KeysError for settings that cannot be kept.

    Use from one event loop.
    """

    def __init__(self, settings: Settings) -> None:
        self.metrics_open = settings.metrics_open
        self._guarded = is_guarded(settings)
        self._ring = KeyRing(settings.keys_file) if settings.keys_file else None
        self._tokens = (
            TokenVerifier(settings.jwt_jwks_url, settings.jwt_issuer, settings.jwt_audience)
            if settings.jwt_jwks_url
            else None
        )
        self._limit = RateLimit(settings.rate_limit, settings.redis_url)
        self.is_open = not self._guarded and not self._limit.is_on  # nobody is asked for a key, nothing is counted

    async def caller(self, scope: Scope) -> Caller:
        """Raises _Refused for who has no key, or none that is good; those are counted under their address."""
        if not self._guarded:
            address = _address(scope)
            return Caller(address, address, "admin")
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if not given:
            await self.count(_stranger(scope))
            detail = "this service needs a key: send Authorization: Bearer KEY"
            raise _Refused(401, "no_key", detail, {"WWW-Authenticate": _REALM})
        scheme, _, text = given[0].decode("latin-1").partition(" ")
        text = text.strip()
        if len(given) == 1 and scheme.lower() == "bearer" and text:
            if self._ring is not None and (key := self._ring.find(text)) is not None:
                return Caller(str(key), key.prefix, key.scope, key.rate_limit)
            if self._tokens is not None and text.count(".") == 2:
                token = await self._tokens.verify(text)
                if token is not None and token.scope is None:
                    await self.count(_stranger(scope))
                    raise _too_little("the token has neither the scope crossmodal:search nor crossmodal:admin")
                if token is not None and token.scope is not None:
                    return Caller(f"token {token.subject[:100]}", f"token {token.subject}", token.scope)
        await self.count(_stranger(scope))
        detail = "the key is not one of this service's, or it was revoked"
        raise _Refused(401, "bad_key", detail, {"WWW-Authenticate": f'{_REALM}, error="invalid_token"'})

    async def count(self, caller: Caller) -> list[tuple[bytes, bytes]]:
        """The headers that go with the answer. Raises _Refused."""
        if not self._limit.is_on and caller.rate_limit is None:
            return []
        verdict = await self._limit.hit(caller.identity, caller.rate_limit)
        if verdict is None:
            return []
        if verdict.wait:
            headers = {name.decode(): value.decode() for name, value in verdict.headers}
            detail = f"too many requests: {verdict.limit} are allowed; try again in {verdict.wait} s"
            raise _Refused(429, "rate_limit", detail, {**headers, "Retry-After": str(verdict.wait)})
        return verdict.headers


class Access:
    """Pure ASGI, before anything of a request is read."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self.app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        right = needed(path)
        if right is None or (path == "/metrics" and self._gate.metrics_open):
            await self.app(scope, receive, send)
            return
        if right == "search" and self._gate.is_open:
            scope["caller"] = _address(scope)
            await self.app(scope, receive, send)
            return
        caller: Caller | None = None
        try:
            caller = await self._gate.caller(scope)
            scope["caller"] = caller.who
            added = await self._gate.count(caller)
            if right == "admin" and caller.right != "admin":
                raise _too_little("this key may search, not operate: that takes one of scope admin")
        except _Refused as error:
            refusals.count(error.reason)
            if right == "admin":
                _record(scope, path, caller, error.status)
            answer = problem_response(error.status, error.detail, scope.get("request_id", ""), error.headers)
            await answer(scope, receive, send)
            return

        status = 500

        async def marked(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        if right != "admin":
            await self.app(scope, receive, marked if added else send)
            return
        try:
            await self.app(scope, receive, marked)
        finally:
            if path != "/metrics":  # Prometheus asks every few seconds
                _record(scope, path, caller, status)


def _too_little(detail: str) -> _Refused:
    return _Refused(403, "scope", detail, {"WWW-Authenticate": f'{_REALM}, error="insufficient_scope"'})


def _record(scope: Scope, path: str, caller: Caller | None, status: int) -> None:
    audit.record(
        f"{scope['method']} {path}",
        who=caller.who if caller else "nobody",
        result=status,
        address=_client(scope),
        request_id=scope.get("request_id", ""),
    )


def _stranger(scope: Scope) -> Caller:
    address = _address(scope)
    return Caller(address, address, "search")


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _address(scope: Scope) -> str:
    """What callers without a key are counted under: an IPv6 network of 64 bits belongs to one."""
    text = _client(scope)
    if "." in text:  # IPv4 within IPv6, as some proxies tell of it: one network of 64 bits has all of it
        text = text.lower().removeprefix("::ffff:")
    if ":" not in text:
        return text
    try:
        return str(ipaddress.ip_network((text.partition("%")[0], 64), strict=False))
    except ValueError:
        return text


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
