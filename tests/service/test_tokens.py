"""Tokens of a real issuer: its keys over HTTP, its signatures, and everything that must not pass for one."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fastapi.testclient import TestClient

from service import tokens
from service.app import create_app
from service.settings import Settings
from service.tokens import TokenVerifier

ISSUER, AUDIENCE = "https://issuer.example/", "crossmodal"
PRIVATE: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


class Issuer:
    """Publishes keys at `url`; `asked` counts."""

    def __init__(self) -> None:
        self.asked = 0
        self.status = 200
        self.seconds = 0.0
        self.keys: list[dict[str, Any]] = []
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                time.sleep(issuer.seconds)
                body = json.dumps({"keys": issuer.keys}).encode()
                self.send_response(issuer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/jwks"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def publish(self, kid: str, algorithm: str, **more: Any) -> None:
        public = PRIVATE[algorithm].public_key()
        jwk = jwt.get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True)
        self.keys.append({**jwk, "kid": kid, "alg": algorithm, "use": "sig", **more})

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    for algorithm in PRIVATE:
        issuer.publish(f"key-{algorithm}", algorithm)
    yield issuer
    issuer.close()


def token(algorithm: str = "RS256", kid: str | None = None, key: Any = None, **claims: Any) -> str:
    payload = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": time.time() + 300, "scope": "crossmodal:search"}
    payload = {name: value for name, value in {**payload, **claims}.items() if value is not None}
    return jwt.encode(payload, key or PRIVATE[algorithm], algorithm, {"kid": kid or f"key-{algorithm}"})


def verify(issuer: Issuer, *texts: str) -> list[Any]:
    async def main() -> list[Any]:
        verifier = TokenVerifier(issuer.url, ISSUER, AUDIENCE)
        return [await verifier.verify(text) for text in texts]

    return asyncio.run(main())


@pytest.mark.parametrize("algorithm", list(PRIVATE))
def test_good_tokens(issuer: Issuer, algorithm: str) -> None:
    found = verify(
        issuer,
        token(algorithm),
        token(algorithm, scope="openid crossmodal:admin crossmodal:search"),
        token(algorithm, scope=None, scp=["crossmodal:search"]),
        token(algorithm, scope="openid"),
        token(algorithm, scope="crossmodal:admins"),
        token(algorithm, aud=["other", AUDIENCE]),
        token(algorithm, exp=str(int(time.time() + 300))),  # no number, yet PyJWT takes it
    )
    assert [each.scope for each in found] == ["search", "admin", "search", None, None, "search", "search"]
    assert found[0].subject == "alice"
    assert issuer.asked == 1


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: dict[str, Any], secret: bytes = b"") -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "eve", "exp": time.time() + 300, "scope": "crossmodal:admin"}
    head = f"{_b64(json.dumps(header).encode())}.{_b64(json.dumps(claims).encode())}"
    return f"{head}.{_b64(hmac.new(secret, head.encode(), hashlib.sha256).digest()) if secret else ''}"


def test_bad_tokens(issuer: Issuer) -> None:
    stranger = rsa.generate_private_key(65537, 2048)
    pem = PRIVATE["RS256"].public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    issuer.keys.append({"kty": "oct", "kid": "shared", "k": _b64(b"s" * 32), "alg": "HS256"})
    issuer.publish("for-encryption", "RS256", use="enc")
    good = token()
    head, body, signature = good.split(".")
    bad = {
        "none": forged({"alg": "none", "kid": "key-RS256"}),
        "None": forged({"alg": "None", "kid": "key-RS256"}),
        "a public key as a secret": forged({"alg": "HS256", "kid": "key-RS256"}, pem),
        "a published secret": forged({"alg": "HS256", "kid": "shared"}, b"s" * 32),
        "a key for encryption": token(kid="for-encryption"),
        "another key": token(key=stranger),
        "another key's id": token(kid="key-ES256"),
        "no such id": token(kid="nowhere"),
        "no id": jwt.encode({"iss": ISSUER}, PRIVATE["RS256"], "RS256"),
        "its own key": jwt.encode({}, stranger, "RS256", {"jwk": {"kty": "RSA"}, "jku": "http://127.0.0.1:1/"}),
        "expired": token(exp=time.time() - 31),
        "for ever": token(exp=None),
        "not yet": token(nbf=time.time() + 300),
        "another issuer": token(iss="https://evil.example/"),
        "no issuer": token(iss=None),
        "for others": token(aud="other"),
        "for nobody": token(aud=None),
        "of nobody": token(sub=None),
        "changed": f"{head}.{_b64(json.dumps({'sub': 'eve'}).encode())}.{signature}",
        "unsigned": f"{head}.{body}.",
        "cut": good[:-4],
        "long": good + "A" * 9000,
        "no token": "a.b.c",
        "nothing": "..",
        "no JSON": f"{_b64(b'x')}.{body}.{signature}",
        "kid of another kind": forged({"alg": "RS256", "kid": ["key-RS256"]}, b"x"),
        "kid of a mapping": forged({"alg": "RS256", "kid": {"a": 1}}, b"x"),
        "exp of another kind": token(exp="soon"),
    }  # fmt: skip
    found = dict(zip(bad, verify(issuer, *bad.values()), strict=True))
    assert {name: caller for name, caller in found.items() if caller is not None} == {}
    assert issuer.asked == 1  # unknown ids do not make this machine ask again and again


def test_new_keys_are_found_and_an_issuer_that_is_away_locks_nobody_out(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_AGAIN", 0.0)
    monkeypatch.setattr(tokens, "_REMEMBER", 0.0)

    async def main() -> None:
        verifier = TokenVerifier(issuer.url, ISSUER, AUDIENCE)
        assert await verifier.verify(token())
        assert await verifier.verify(token(kid="new")) is None
        issuer.publish("new", "RS256")
        assert await verifier.verify(token(kid="new"))
        issuer.status = 500
        monkeypatch.setattr(tokens, "_KEEP", 0.0)
        assert await verifier.verify(token())
        issuer.status, issuer.keys = 200, issuer.keys[1:2]
        assert await verifier.verify(token()) is None

    asyncio.run(main())


def test_all_who_come_while_the_issuer_is_asked_wait_for_its_answer(issuer: Issuer) -> None:
    issuer.seconds = 0.2

    async def main() -> list[Any]:
        verifier = TokenVerifier(issuer.url, ISSUER, AUDIENCE)
        first = asyncio.create_task(verifier.verify(token(sub="0")))
        await asyncio.sleep(0.1)
        return await asyncio.gather(first, *(verifier.verify(token(sub=f"{n}")) for n in range(1, 4)))

    assert [caller and caller.subject for caller in asyncio.run(main())] == ["0", "1", "2", "3"]
    assert issuer.asked == 1


def test_a_verified_token_is_remembered_but_not_beyond_its_end(issuer: Issuer) -> None:
    async def main() -> None:
        verifier = TokenVerifier(issuer.url, ISSUER, AUDIENCE)
        assert await verifier.verify(token())  # it has the keys
        short = token(exp=time.time() - 27)  # within what clocks may differ, for two to three seconds
        assert await verifier.verify(short)
        assert await verifier.verify(short)
        until = time.monotonic() + 20
        while await verifier.verify(short):
            assert time.monotonic() < until
            await asyncio.sleep(0.05)

    asyncio.run(main())


def test_tokens_open_what_their_scope_says(issuer: Issuer) -> None:
    settings = Settings(index=Path("none"), jwt_jwks_url=issuer.url, jwt_issuer=ISSUER, jwt_audience=AUDIENCE)
    client = TestClient(create_app(settings))

    def status(text: str, path: str = "/metrics") -> int:
        return client.get(path, headers={"Authorization": f"Bearer {text}"}).status_code

    assert status(token(scope="crossmodal:admin")) == 200
    assert status(token()) == 403
    assert status(token(scope="openid"), "/v1/nothing") == 403
    assert status(token(), "/v1/nothing") == 404
    assert status(token(aud="other"), "/v1/nothing") == 401
    limited = TestClient(create_app(settings.model_copy(update={"rate_limit": "2/minute"})))
    nothing = {"Authorization": f"Bearer {token(scope='openid')}"}
    assert [limited.get("/v1/nothing", headers=nothing).status_code for _ in range(3)] == [403, 403, 429]
