"""What clients send as a picture -> bytes. What lies at a web address, `fetch` fetches."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import unquote_to_bytes

from service.errors import Problem
from service.fetch import Allowance, Fetcher


def from_base64(text: str) -> bytes:
    """Raises Problem 422 for what is not base64."""
    try:
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error:  # perhaps it was folded into lines
            return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Problem(422, "image.base64 is not base64: encode the file's bytes, without a data: prefix") from None


async def from_url(url: str, fetcher: Fetcher, allowance: Allowance | None = None) -> bytes:
    """The bytes of a data: URI, or of a URL that the fetcher may fetch."""
    if url[:5].lower() == "data:":
        return _from_data_uri(url)
    return await fetcher.fetch(url, allowance)


def _from_data_uri(uri: str) -> bytes:
    head, comma, payload = uri.partition(",")
    if not comma:
        raise Problem(422, "image.url: a data: URI has a comma before its data")
    if head.lower().endswith(";base64"):
        return from_base64(unquote_to_bytes(payload).decode("latin-1"))
    return unquote_to_bytes(payload)
