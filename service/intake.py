"""What clients send as a picture -> bytes. URLs are fetched only from hosts the operator has named."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import unquote_to_bytes, urlsplit

from service.errors import Problem
from service.settings import Settings

_FETCH_SECONDS = 10.0


def from_base64(text: str) -> bytes:
    """Raises Problem 422 for what is not base64."""
    try:
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error:  # perhaps it was folded into lines
            return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Problem(422, "image.base64 is not base64: encode the file's bytes, without a data: prefix") from None


async def from_url(url: str, settings: Settings) -> bytes:
    """The bytes of a data: URI, or of an http(s) URL on one of `image_url_hosts`; redirects are not followed."""
    if url[:5].lower() == "data:":
        return _from_data_uri(url)
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise Problem(422, "image.url is not a URL") from None
    if parts.scheme not in ("http", "https") or not host:
        raise Problem(422, "image.url must be a data:, https: or http: URL")
    if host not in settings.image_url_hosts:
        why = f"host {host!r} is not allowed" if settings.image_url_hosts else "fetching images from URLs is off"
        raise Problem(422, f"image.url: {why} here (CROSSMODAL_IMAGE_URL_HOSTS); send the picture itself as base64")
    return await _fetch(url, settings.max_body_bytes)


def _from_data_uri(uri: str) -> bytes:
    head, comma, payload = uri.partition(",")
    if not comma:
        raise Problem(422, "image.url: a data: URI has a comma before its data")
    if head.lower().endswith(";base64"):
        return from_base64(unquote_to_bytes(payload).decode("latin-1"))
    return unquote_to_bytes(payload)


async def _fetch(url: str, most: int) -> bytes:
    import httpx

    content = bytearray()
    try:
        async with httpx.AsyncClient(timeout=_FETCH_SECONDS) as client, client.stream("GET", url) as answer:
            if answer.status_code != 200:
                raise Problem(422, f"image.url: the host answered {answer.status_code}")
            async for chunk in answer.aiter_bytes():
                content += chunk
                if len(content) > most:
                    raise Problem(422, f"image.url: the picture has more than the {most:,} bytes allowed")
    except httpx.HTTPError as error:
        raise Problem(422, f"image.url could not be fetched ({type(error).__name__})") from None
    return bytes(content)
