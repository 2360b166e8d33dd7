"""No URL makes this machine connect to where it should not; what is allowed is fetched, within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme

from service.errors import Problem
from service.fetch import Fetcher
from service.refusals import REFUSALS
from service.settings import Settings

PUBLIC = "93.184.216.34"
LISTED = [
    "pictures.example", "pictures.example:8443", "127.0.0.1", "localhost", "[::1]", "169.254.169.254", "10.0.0.1",
    "metadata.google.internal", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "0.0.0.0", "[fd00:ec2::254]",
]  # fmt: skip

# URL, what its host resolves to. The hosts of the second half are on the operator's list, to no avail.
HOSTILE: list[tuple[str, Sequence[str]]] = [
    # other schemes, and what is no URL
    ("http://pictures.example/a.png", [PUBLIC]),
    ("file:///etc/passwd", [PUBLIC]),
    ("ftp://pictures.example/a.png", [PUBLIC]),
    ("gopher://pictures.example:25/_HELO", [PUBLIC]),
    ("dict://pictures.example:11211/stats", [PUBLIC]),
    ("javascript:alert(1)", [PUBLIC]),
    ("unix:///var/run/docker.sock", [PUBLIC]),
    ("ws://pictures.example/", [PUBLIC]),
    ("//pictures.example/a.png", [PUBLIC]),
    ("pictures.example/a.png", [PUBLIC]),
    ("https:pictures.example/a.png", [PUBLIC]),
    ("https:/pictures.example/a.png", [PUBLIC]),
    ("https:///a.png", [PUBLIC]),
    ("https://", [PUBLIC]),
    ("", [PUBLIC]),
    (" https://pictures.example/a.png", [PUBLIC]),
    ("https://pictures.example /a.png", [PUBLIC]),
    ("https://pictures.example/a.png\r\nHost: other.example", [PUBLIC]),
    ("https://pictures.example/a\tb.png", [PUBLIC]),
    ("https://pictures.example/a\x00.png", [PUBLIC]),
    ("https://pictures.example\\@evil.example/", [PUBLIC]),
    ("https:\\\\pictures.example\\a.png", [PUBLIC]),
    ("https://pictures.example/" + "a" * 5000, [PUBLIC]),
    ("https://[::1/a.png", [PUBLIC]),
    ("https://pictures.example:port/a.png", [PUBLIC]),
    ("https://pictures.example:99999999/a.png", [PUBLIC]),
    # hosts that only look like the one on the list
    ("https://evil.example/a.png", [PUBLIC]),
    ("https://pictures.example.evil.example/a.png", [PUBLIC]),
    ("https://evil.example/pictures.example", [PUBLIC]),
    ("https://evil.example#pictures.example", [PUBLIC]),
    ("https://evil.example?pictures.example", [PUBLIC]),
    ("https://xpictures.example/a.png", [PUBLIC]),
    ("https://pictures.example./a.png", [PUBLIC]),
    ("https://.pictures.example/a.png", [PUBLIC]),
    ("https://pıctures.example/a.png", [PUBLIC]),
    ("https://pictures.example%2eevil.example/a.png", [PUBLIC]),
    ("https://pictures.example%00.evil.example/a.png", [PUBLIC]),
    # users, passwords, ports
    ("https://user@pictures.example/a.png", [PUBLIC]),
    ("https://user:password@pictures.example/a.png", [PUBLIC]),
    ("https://@pictures.example/a.png", [PUBLIC]),
    ("https://pictures.example@evil.example/a.png", [PUBLIC]),
    ("https://pictures.example:443@evil.example/a.png", [PUBLIC]),
    ("https://pictures.example:22/a.png", [PUBLIC]),
    ("https://pictures.example:80/a.png", [PUBLIC]),
    ("https://pictures.example:6379/a.png", [PUBLIC]),
    ("https://pictures.example:0/a.png", [PUBLIC]),
    # numbers for 127.0.0.1 in other spellings
    ("https://2130706433/", ["127.0.0.1"]),
    ("https://0x7f000001/", ["127.0.0.1"]),
    ("https://0177.0.0.1/", ["127.0.0.1"]),
    ("https://127.1/", ["127.0.0.1"]),
    ("https://127.0.0.1.nip.io/", ["127.0.0.1"]),
    ("https://①②⑦.0.0.1/", ["127.0.0.1"]),
    # on the list, but the address is not public
    ("https://127.0.0.1/", ["127.0.0.1"]),
    ("https://localhost/", ["127.0.0.1"]),
    ("https://localhost/", ["::1", "127.0.0.1"]),
    ("https://[::1]/", ["::1"]),
    ("https://0.0.0.0/", ["0.0.0.0"]),
    ("https://10.0.0.1/", ["10.0.0.1"]),
    ("https://169.254.169.254/latest/meta-data/", ["169.254.169.254"]),
    ("https://metadata.google.internal/computeMetadata/v1/", ["169.254.169.254"]),
    ("https://[fd00:ec2::254]/latest/meta-data/", ["fd00:ec2::254"]),
    ("https://[::ffff:127.0.0.1]/", ["::ffff:127.0.0.1"]),
    ("https://[64:ff9b::7f00:1]/", ["64:ff9b::7f00:1"]),
    *(
        ("https://pictures.example/a.png", addresses)
        for addresses in (
            ["127.0.0.1"], ["127.255.255.254"], ["0.0.0.0"], ["0.1.2.3"], ["10.255.0.1"], ["172.16.0.1"],
            ["172.31.255.255"], ["192.168.1.1"], ["169.254.1.1"], ["100.64.0.1"], ["100.100.100.200"],
            ["168.63.129.16"], ["192.0.0.192"], ["192.0.2.1"], ["192.88.99.1"], ["198.18.0.1"], ["198.51.100.1"],
            ["203.0.113.1"], ["224.0.0.1"], ["239.255.255.250"], ["240.0.0.1"], ["255.255.255.255"],
            ["::"], ["::1"], ["::127.0.0.1"], ["::ffff:10.0.0.1"], ["::ffff:93.184.216.34"], ["64:ff9b::a9fe:a9fe"],
            ["64:ff9b:1::1"], ["100::1"], ["2001::1"], ["2001:0:7f00:1::1"], ["2001:db8::1"], ["2002:7f00:1::1"],
            ["2002:a9fe:a9fe::1"], ["3fff::1"], ["4000::1"], ["5f00::1"], ["fc00::1"], ["fd00:ec2::23"],
            ["fd20:ce::254"], ["fe80::1"], ["fe80::1%2"], ["fec0::1"], ["ff02::1"], ["2606:2800:220::1%2"],
            [PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], [PUBLIC, "::1"], [],
        )
    ),
]  # fmt: skip


def fetcher(resolve: Callable[[str, int], Awaitable[Sequence[str]]], **settings: Any) -> Fetcher:
    return Fetcher(Settings(index=Path("none"), **settings), resolve)


def resolver(*answers: Sequence[str]) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    """One answer after the other, the last for ever."""
    left = list(answers)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    return resolve


def refusals() -> float:
    return sum(
        sample.value for metric in REFUSALS.collect() for sample in metric.samples if sample.name.endswith("_total")
    )


@pytest.fixture
def no_connection(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every TCP connection that the event loop makes is recorded, and fails."""
    made: list[Any] = []

    async def connect(self: Any, sock: Any, address: Any) -> None:
        made.append(address)
        raise OSError("a connection was made")

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", connect)
    return made


def test_the_table_is_long_enough() -> None:
    assert len({url for url, _ in HOSTILE}) >= 60
    assert len(HOSTILE) >= 110


@pytest.mark.parametrize(("url", "addresses"), HOSTILE)
def test_hostile_urls_are_refused_and_counted(url: str, addresses: Sequence[str], no_connection: list[Any]) -> None:
    before = refusals()
    with pytest.raises(Problem) as caught:
        asyncio.run(fetcher(resolver(addresses), image_url_hosts=LISTED).fetch(url))
    assert caught.value.status == 422
    assert "image.url" in caught.value.detail
    assert "could not be fetched" not in caught.value.detail  # refused, not tried
    assert not any(address in caught.value.detail for address in addresses if address not in url)
    assert refusals() == before + 1
    assert no_connection == []


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", "2606:4700::1111", "172.15.0.1", "172.32.0.1", "192.167.1.1"])
def test_public_addresses_are_tried(address: str, no_connection: list[Any]) -> None:
    with pytest.raises(Problem, match="could not be fetched"):
        asyncio.run(fetcher(resolver([address]), image_url_hosts=LISTED).fetch("https://pictures.example/a.png"))
    assert no_connection == [(address, 443) if ":" not in address else (address, 443, 0, 0)]


def test_metadata_services_are_refused_within_an_allowed_range() -> None:
    for address in ("169.254.169.254", "fd00:ec2::254"):
        open_range = ["169.254.0.0/16", "fc00::/7"]
        wide = fetcher(resolver([address]), image_url_hosts=LISTED, image_url_networks=open_range)
        with pytest.raises(Problem, match="not allowed here"):
            asyncio.run(wide.fetch("https://pictures.example/"))


def test_off_by_default() -> None:
    with pytest.raises(Problem, match="off here"):
        asyncio.run(fetcher(resolver([PUBLIC])).fetch("https://pictures.example/a.png"))


@pytest.mark.parametrize(
    "entry", ["", "a b", "https://a.example", "a.example/x", "user@a.example", ":80", "a.example:x"]
)
def test_a_bad_entry_of_the_list_stops_the_start(entry: str) -> None:
    with pytest.raises(ValueError, match="IMAGE_URL_HOSTS"):
        fetcher(resolver([]), image_url_hosts=[entry])


# --- against real servers ---------------------------------------------------------------------------------------------

PICTURE = b"\x89PNG a picture"
Handler = Callable[[bytes, asyncio.StreamWriter], Coroutine[Any, Any, None]]


def reply(body: bytes = PICTURE, *headers: str, status: str = "200 OK", type: str = "image/png") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {type}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextlib.asynccontextmanager
async def serving(handle: Handler | bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server on 127.0.0.1: its port, and the heads of the requests that it got."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            heads.append(head)
            if isinstance(handle, bytes):
                writer.write(handle)
            else:
                await handle(head, writer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1], heads


LOCAL = {"image_url_networks": ["127.0.0.0/8"], "image_url_http": True}


def fetched(handle: Handler | bytes, path: str = "/a.png", **settings: Any) -> tuple[bytes, list[bytes]]:
    """What is fetched from http://pictures.example:PORT, which lies on this machine."""

    async def main() -> tuple[bytes, list[bytes]]:
        async with serving(handle) as (port, heads):
            place = f"pictures.example:{port}"
            one = fetcher(resolver(["127.0.0.1"]), **{**LOCAL, "image_url_hosts": [place], **settings})
            return await one.fetch(f"http://{place}{path}"), heads

    return asyncio.run(main())


def test_nothing_of_this_machine_goes_along(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("default login me password secret")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    body, heads = fetched(reply(), "/a.png?x=1#part")
    assert body == PICTURE
    head = heads[0].decode().lower()
    assert head.startswith("get /a.png?x=1 http/1.1\r\nhost: pictures.example:")
    names = {line.partition(":")[0] for line in head.split("\r\n")[1:] if line}
    assert names == {"host", "accept", "accept-encoding", "user-agent"}


def test_https_is_checked_against_the_name_though_the_address_is_pinned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

    async def ask(certified: str) -> tuple[bytes, str | None]:
        names: list[str | None] = []
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(certified).configure_cert(tls)
        tls.sni_callback = lambda _socket, name, _context: names.append(name)  # type: ignore[assignment]
        async with serving(reply(), tls) as (port, heads):
            one = fetcher(
                resolver(["127.0.0.1"]),
                image_url_hosts=[f"pictures.example:{port}"],
                image_url_networks=["127.0.0.0/8"],
            )
            body = await one.fetch(f"https://pictures.example:{port}/a.png")
            assert f"Host: pictures.example:{port}".encode() in heads[0]
            return body, names[0]

    assert asyncio.run(ask("pictures.example")) == (PICTURE, "pictures.example")
    for other in ("evil.example", "127.0.0.1"):
        with pytest.raises(Problem, match="could not be fetched"):
            asyncio.run(ask(other))


def test_a_resolver_that_changes_its_answer_is_asked_once() -> None:
    async def main() -> None:
        async with serving(reply(b"of this machine")) as (port, heads):
            place = f"pictures.example:{port}"
            # the first answer is checked and used: nobody listens there, and the second is never asked for
            asked = 0

            async def rebinding(host: str, port: int) -> Sequence[str]:
                nonlocal asked
                asked += 1
                return ["127.0.0.2"] if asked == 1 else ["127.0.0.1"]

            one = fetcher(rebinding, **{**LOCAL, "image_url_networks": ["127.0.0.2/32"]}, image_url_hosts=[place])
            with pytest.raises(Problem, match="could not be fetched"):
                await one.fetch(f"http://{place}/")
            assert asked == 1
            # the name itself is never handed to anything that would resolve it again
            with pytest.raises(Problem, match="not allowed here"):
                await one.fetch(f"http://{place}/")
            assert heads == []

    asyncio.run(main())


def test_the_next_address_is_tried_where_the_first_does_not_answer() -> None:
    async def main() -> bytes:
        async with serving(reply()) as (port, _):
            place = f"pictures.example:{port}"
            one = fetcher(resolver(["127.0.0.2", "127.0.0.1"]), **LOCAL, image_url_hosts=[place])
            return await one.fetch(f"http://{place}/")

    assert asyncio.run(main()) == PICTURE


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/", "http://127.0.0.1/", "//evil.example/", "file:///etc/passwd",
        "http://user@pictures.example/", "http://pictures.example:1/", "gopher://pictures.example/", "http://[::1/",
        "https://pictures.example\\.evil.example/", "ftp://pictures.example/a.png", "http://localhost:6379/",
    ],
)  # fmt: skip
def test_redirects_are_checked_like_the_first_url(location: str) -> None:
    with pytest.raises(Problem, match=r"image\.url") as caught:
        fetched(reply(b"", f"Location: {location}", status="302 Found"))
    assert "could not be fetched" not in caught.value.detail


def test_redirects_within_the_list_are_followed_without_cookies_but_not_for_ever() -> None:
    async def twice(head: bytes, writer: asyncio.StreamWriter) -> None:
        if head.startswith(b"GET /a.png "):
            writer.write(reply(b"", "Location: /b.png", "Set-Cookie: a=1; Path=/", status="302 Found"))
        else:
            writer.write(reply())

    body, heads = fetched(twice)
    assert body == PICTURE
    assert len(heads) == 2
    assert b"cookie" not in heads[1].lower()
    with pytest.raises(Problem, match="more than 3 redirects"):
        fetched(reply(b"", "Location: /a.png", status="307 Temporary Redirect"))


def test_a_redirect_is_resolved_and_checked_anew() -> None:
    async def main() -> None:
        async with serving(reply(b"", "Location: /b.png", status="302 Found")) as (port, heads):
            place = f"pictures.example:{port}"
            one = fetcher(resolver(["127.0.0.1"], ["169.254.169.254"]), **LOCAL, image_url_hosts=[place])
            with pytest.raises(Problem, match="not allowed here"):
                await one.fetch(f"http://{place}/a.png")
            assert len(heads) == 1

    asyncio.run(main())


async def _endless(head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        await writer.drain()


async def _slow(head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def _slow_head(head: bytes, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def _silent(head: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(2)


async def _long_head(head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-Filler: " + b"x" * 1000 + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize(
    ("handle", "words"),
    [
        (_endless, "bytes allowed"),
        (reply(bytes(2**20)), "bytes allowed"),
        (_slow, "within 0.4 s"),
        (_slow_head, "within 0.4 s"),
        (_silent, "within 0.4 s"),
        (_long_head, "could not be fetched"),
        (reply(b"<html>", type="text/html"), "'text/html', not a picture"),
        (reply(b"<svg/>", type="image/svg+xml"), "not a picture"),
        (reply(b"{}", type="application/json"), "not a picture"),
        (reply(gzip.compress(bytes(2**24)), "Content-Encoding: gzip"), "compressed"),
        (reply(status="404 Not Found"), "answered 404"),
        (reply(status="204 No Content"), "answered 204"),
        (reply(status="302 Found"), "answered 302"),
        (b"SSH-2.0-OpenSSH\r\n", "could not be fetched"),
        (b"", "could not be fetched"),
        (reply()[:-3], "could not be fetched"),
    ],
)
def test_answers_are_bounded(handle: Handler | bytes, words: str) -> None:
    with pytest.raises(Problem) as caught:
        fetched(handle, max_body_bytes=2**16, image_url_seconds=0.4 if "0.4 s" in words else 20)
    assert words in caught.value.detail


def test_the_pictures_of_one_request_share_what_it_may_send() -> None:
    async def main() -> None:
        async with serving(reply(bytes(40_000))) as (port, _):
            place = f"pictures.example:{port}"
            one = fetcher(resolver(["127.0.0.1"]), **LOCAL, image_url_hosts=[place], max_body_bytes=100_000)
            allowance = one.allowance()
            await one.fetch(f"http://{place}/", allowance)
            await one.fetch(f"http://{place}/", allowance)
            with pytest.raises(Problem, match="bytes allowed"):
                await one.fetch(f"http://{place}/", allowance)
            await one.fetch(f"http://{place}/")

    asyncio.run(main())
