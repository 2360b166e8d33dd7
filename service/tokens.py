"""JSON Web Tokens of an issuer that the operator trusts, verified with the keys it publishes (PyJWT; extra `jwt`)."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass
from typing import Any

import httpx

from service import logs
from service.keys import Scope

log = logs.logger("crossmodal.tokens")

# Public keys alone: with HS256 among them, a published key would do as a shared secret. Never `none`.
ALGORITHMS = ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA"]

_LEEWAY = 30  # seconds that clocks may differ
_KEEP = 300.0  # seconds that the issuer's keys are used without asking again
_AGAIN = 10.0  # seconds between two questions, whatever tokens name
_REMEMBER = 60.0  # seconds that a verified token is not verified again
_REMEMBERED = 4096  # tokens
_LONGEST = 8192  # characters of a token
_LARGEST = 2**20  # bytes of the issuer's answer


@dataclass(frozen=True, slots=True)
class TokenCaller:
    """Whom a token names, and what it allows; `scope` is None if that is nothing here."""

    subject: str
    scope: Scope | None


class TokenVerifier:
    """Use from one event loop. Raises ValueError without PyJWT, or if issuer or audience is not given."""

    def __init__(self, jwks_url: str, issuer: str | None, audience: str | None) -> None:
        try:
            import jwt
            from jwt.algorithms import RSAAlgorithm  # noqa: F401  # there with cryptography alone
        except ImportError:
            raise ValueError("CROSSMODAL_JWT_… needs PyJWT: pip install 'crossmodal[jwt]'") from None
        if not issuer or not audience:
            raise ValueError("CROSSMODAL_JWT_JWKS_URL needs CROSSMODAL_JWT_ISSUER and CROSSMODAL_JWT_AUDIENCE")
        self._jwt = jwt
        self._url, self._issuer, self._audience = jwks_url, issuer, audience
        self._keys: dict[str, Any] = {}
        self._read_at = self._asked_at = float("-inf")
        self._asking = asyncio.Lock()
        self._verified: dict[bytes, tuple[TokenCaller, float]] = {}

    async def verify(self, token: str) -> TokenCaller | None:
        """None for whatever is not a good token of the issuer's for us."""
        if len(token) > _LONGEST:
            return None
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        caller, until = self._verified.get(digest, (None, 0.0))
        if caller is not None and time.time() < until:
            return caller
        try:
            header = self._jwt.get_unverified_header(token)
            key = await self._key(header.get("kid"))
            if key is None or header.get("alg") not in ALGORITHMS:
                return None
            claims = self._jwt.decode(
                token, key, algorithms=ALGORITHMS, issuer=self._issuer, audience=self._audience, leeway=_LEEWAY,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )  # fmt: skip
        except (self._jwt.PyJWTError, ValueError, TypeError):
            return None
        caller = TokenCaller(str(claims["sub"]), _scope_of(claims))
        if len(self._verified) >= _REMEMBERED:
            self._verified.clear()
        self._verified[digest] = caller, min(time.time() + _REMEMBER, int(claims["exp"]) + _LEEWAY)
        return caller

    async def _key(self, kid: object) -> Any:
        now = time.monotonic()
        # Whoever names a key that is not there waits for an answer that is on its way.
        if kid not in self._keys or (now - self._read_at > _KEEP and not self._asking.locked()):
            async with self._asking:
                if now - self._asked_at > _AGAIN:
                    await self._ask()
        return self._keys.get(kid) if isinstance(kid, str) else None

    async def _ask(self) -> None:
        """Keys that were read before stay if the issuer cannot be reached."""
        self._asked_at = time.monotonic()
        try:
            async with asyncio.timeout(5), httpx.AsyncClient() as client, client.stream("GET", self._url) as answer:
                answer.raise_for_status()
                body = bytearray()
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > _LARGEST:
                        raise ValueError("the answer is too large")
            keys = self._jwt.PyJWKSet.from_json(body.decode()).keys
        except (httpx.HTTPError, TimeoutError, OSError, ValueError, self._jwt.PyJWTError) as error:
            log.error("the issuer's keys cannot be read", reason=type(error).__name__)
            return
        usable = [key for key in keys if key.public_key_use in (None, "sig")]
        self._keys = {key.key_id: key for key in usable if key.key_id}
        self._read_at = time.monotonic()


def _scope_of(claims: dict[str, Any]) -> Scope | None:
    """`crossmodal:search` or `crossmodal:admin` in `scope` (RFC 8693: words in a string) or `scp` (often a list)."""
    told = claims.get("scope", claims.get("scp", ()))
    words = told.split() if isinstance(told, str) else told if isinstance(told, list) else ()
    if "crossmodal:admin" in words:
        return "admin"
    return "search" if "crossmodal:search" in words else None
