"""What clients send as a picture -> bytes. What lies at a web address, `fetch` fetches."""

from __future__ import annotations

import base64
import binascii

from service.errors import Problem


def from_base64(text: str) -> bytes:
    """Raises Problem 422 for what is not base64."""
    try:
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error:  # perhaps it was folded into lines
            return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Problem(422, "image.base64 is not base64: encode the file's bytes, without a data: prefix") from None


def from_data_uri(uri: str) -> bytes:
    """Raises Problem 422 for what is none."""
    head, comma, payload = uri.partition(",")
    if not comma:
        raise Problem(422, "image.url: a data: URI has a comma before its data")
    # Quoted-printable but for its sign, and 100 times as fast as urllib, which makes an object of each escape.
    data = binascii.a2b_qp(payload.replace("=", "%3D").replace("%", "=").encode("utf-8", "replace"))
    return from_base64(data.decode("latin-1")) if head.lower().endswith(";base64") else data
