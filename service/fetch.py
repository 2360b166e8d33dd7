"""Pictures at web addresses -> bytes, from hosts that the operator has named and from nowhere else.

A URL in a query makes this machine connect for somebody else. So:

- the host and the port must be on the list, and the scheme must be https unless http is allowed too;
- the host is resolved once; if any of its addresses is not public (see `addresses`), none is used;
- the connection goes to an address that was checked, not to the name: a resolver that answers otherwise a moment later
  (DNS rebinding) is not asked again. Certificate and Host header are still the name's;
- a redirect starts all over;
- nothing of this machine goes along: no cookies, credentials, .netrc or proxies of the environment;
- bytes, seconds, redirects and the type of the answer are bounded, and it is not decompressed.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from ipaddress import ip_address

import httpx

from service.addresses import may_connect
from service.errors import Problem
from service.refusals import refused
from service.settings import Settings

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_REDIRECTS = 3
_AT_ONCE = 16  # connections of a process
_PORTS = {"https": 443, "http": 80}
_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")  # what stores say of files they do not know
# A URL has none of these; parsers differ in what they make of them.
_NEVER = re.compile(r"[\x00-\x20\x7f\\]")
_LONGEST = 4096  # characters


class Allowance:
    """How many more bytes the pictures of one request may have: what is fetched counts as if it had been sent."""

    def __init__(self, size: int) -> None:
        self.size = self.left = size

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise refused("url_size", f"image.url: the pictures have more than the {self.size:,} bytes allowed")


async def resolve(host: str, port: int) -> list[str]:
    """Addresses as the system has them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


class Fetcher:
    """Use from one event loop."""

    def __init__(self, settings: Settings, resolve: Resolve = resolve) -> None:
        self._settings = settings
        self._resolve = resolve
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._places = frozenset(place for entry in settings.image_url_hosts for place in _places(entry))

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()  # slow to make; SSL_CERT_FILE names further authorities

    def allowance(self) -> Allowance:
        return Allowance(self._settings.max_body_bytes)

    async def fetch(self, url: str, allowance: Allowance | None = None) -> bytes:
        """The bytes at `url`. Raises Problem 422 with the reason; it tells names, never addresses."""
        settings = self._settings
        allowance = allowance or self.allowance()
        try:
            async with asyncio.timeout(settings.image_url_seconds), self._slots:
                return await self._follow(self._checked(url), allowance)
        except TimeoutError:
            raise refused("url_time", f"image.url: not fetched within {settings.image_url_seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Problem(422, f"image.url could not be fetched ({type(error).__name__})") from None

    async def _follow(self, url: httpx.URL, allowance: Allowance) -> bytes:
        # A connection is for one name alone, though two may share an address: its certificate was checked for that one.
        alone = httpx.Limits(max_keepalive_connections=0)
        transport = httpx.AsyncHTTPTransport(verify=self._tls, limits=alone)
        async with transport:
            for _ in range(_REDIRECTS + 1):
                answer = await self._ask(transport, url)
                try:
                    if answer.status_code in (301, 302, 303, 307, 308) and "location" in answer.headers:
                        url = self._checked(_join(url, answer.headers["location"]))
                        continue
                    return await _body(answer, allowance)
                finally:
                    await answer.aclose()
        raise refused("url_redirect", f"image.url: more than {_REDIRECTS} redirects")

    def _checked(self, text: str) -> httpx.URL:
        url = parse(text)
        if not self._places:
            detail = "image.url: fetching is off here (CROSSMODAL_IMAGE_URL_HOSTS); send the picture as base64"
            raise refused("url_off", detail)
        allowed = ("https", "http") if self._settings.image_url_http else ("https",)
        if url.scheme not in allowed:
            raise refused("url_malformed", f"image.url: {' or '.join(f'{name}:' for name in allowed)} only")
        if (url.scheme, url.raw_host, _port(url)) not in self._places:
            port = "" if url.port is None else f":{url.port}"
            raise refused(
                "url_host", f"image.url: host {url.host[:100] + port!r} is not allowed (CROSSMODAL_IMAGE_URL_HOSTS)"
            )
        return url

    async def _ask(self, transport: httpx.AsyncHTTPTransport, url: httpx.URL) -> httpx.Response:
        host = url.raw_host.decode("ascii")
        addresses = await self._resolve(host, _port(url))
        allowed = self._settings.image_url_networks
        if not addresses or not all(may_connect(ip_address(address), allowed) for address in addresses):
            raise refused("url_address", f"image.url: host {url.host!r} has an address that is not allowed here")
        error: httpx.TransportError | None = None
        for address in addresses[:3]:
            request = httpx.Request(
                "GET",
                url.copy_with(host=address, fragment=None),
                headers={"Host": url.netloc.decode("ascii"), "Accept": "image/*", "Accept-Encoding": "identity",
                         "User-Agent": "crossmodal"},
                extensions={"sni_hostname": host, "timeout": httpx.Timeout(self._settings.image_url_seconds).as_dict()},
            )  # fmt: skip
            try:
                return await transport.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as failed:
                error = failed
        assert error is not None
        raise error


def parse(text: str) -> httpx.URL:
    """An absolute URL without a user. Raises Problem 422."""
    if len(text) > _LONGEST or _NEVER.search(text):
        raise refused("url_malformed", f"image.url is not a URL, or has more than {_LONGEST:,} characters")
    try:
        url = httpx.URL(text)
        url.raw_host.decode("ascii")
    except (httpx.InvalidURL, ValueError, TypeError):
        raise refused("url_malformed", "image.url is not a URL") from None
    if not url.is_absolute_url or not url.host or url.scheme not in _PORTS:
        raise refused("url_malformed", "image.url must be a data: or https: URL")
    if "@" in re.split("[/?#]", text.partition("//")[2], maxsplit=1)[0]:
        raise refused("url_malformed", "image.url: a user or a password in a URL is not allowed")
    return url


def _port(url: httpx.URL) -> int:
    return _PORTS[url.scheme] if url.port is None else url.port


def _join(url: httpx.URL, location: str) -> str:
    if _NEVER.search(location):
        raise refused("url_redirect", "image.url: the host redirects to what is not a URL")
    try:
        return str(url.join(location))
    except (httpx.InvalidURL, ValueError):
        raise refused("url_redirect", "image.url: the host redirects to what is not a URL") from None


async def _body(answer: httpx.Response, allowance: Allowance) -> bytes:
    if answer.status_code != 200:
        raise Problem(422, f"image.url: the host answered {answer.status_code}")
    kind = answer.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if not kind.startswith(_TYPES) or kind.startswith("image/svg"):
        raise refused("url_type", f"image.url: the host sent {kind[:100]!r}, not a picture")
    if answer.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise refused("url_type", "image.url: the host sent the picture compressed, though not asked to")
    declared = answer.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > allowance.left:
        allowance.spend(int(declared))
    content = bytearray()
    async for chunk in answer.aiter_raw():
        allowance.spend(len(chunk))
        content += chunk
    return bytes(content)


def _places(entry: str) -> list[tuple[str, bytes, int]]:
    """`host` or `host:port` -> what of a URL is compared: (scheme, host, port). Raises ValueError for anything else."""
    try:
        url = httpx.URL(f"https://{entry}")
        if not url.host or url.userinfo or url.path != "/" or url.query or url.fragment or _NEVER.search(entry):
            raise ValueError
    except (httpx.InvalidURL, ValueError):
        raise ValueError(f"CROSSMODAL_IMAGE_URL_HOSTS: {entry!r} is not a host, nor host:port") from None
    # httpx drops the scheme's own port: host:443 and host are one.
    if url.port is None:
        named = entry.endswith(":443")
        return [("https", url.raw_host, 443)] + ([] if named else [("http", url.raw_host, 80)])
    return [(scheme, url.raw_host, url.port) for scheme in _PORTS]
