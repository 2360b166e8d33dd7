"""What every answer tells a browser not to do with it."""

from __future__ import annotations

Headers = tuple[tuple[bytes, bytes], ...]

# Answers are data: nothing in one is run or framed. The page and /docs have policies of their own.
_DATA_POLICY = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; sandbox"
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
_DATA = (b"content-security-policy", _DATA_POLICY)
# For what is refused before the application sees it.
ON_FAILURE = {name.decode(): value.decode() for name, value in (*_ALWAYS, _DATA)}


def security_headers(shared: bool) -> tuple[Headers, Headers]:
    """What is added to an answer with a policy of its own, and to any other.

    `shared` are answers that other sites may embed: where CORS names any.
    """
    always = (*_ALWAYS, (b"cross-origin-resource-policy", b"cross-origin" if shared else b"same-origin"))
    return always, (*always, _DATA)
