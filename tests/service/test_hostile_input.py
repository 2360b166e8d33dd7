"""Input that means harm, against a real server: every answer is 200 or says what is wrong, and the service lives on."""

from __future__ import annotations

import asyncio
import io
import json
import random
import struct
import time
import unicodedata
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from dual_encoder.image import FORMATS

SEARCH = "/v1/search/images"


@pytest.fixture(scope="module")
def client(live_server: str) -> Any:
    with httpx.Client(base_url=live_server, timeout=30) as client:
        yield client
        assert client.get("/readyz").status_code == 200


def said(answer: httpx.Response, *statuses: int) -> str:
    assert answer.status_code in statuses, (answer.status_code, answer.text[:300])
    if answer.status_code == 200:
        return ""
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Traceback" not in answer.text
    return str(answer.json()["detail"])


def picture(client: httpx.Client, data: bytes) -> httpx.Response:
    return client.post(f"{SEARCH}?k=1", files={"image": data})


# --- pictures that are more than they seem ----------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, data: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    lines = data or zlib.compress(b"\0" * (1 + 3 * width) * min(height, 100))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def saved(format: str, size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, format, **options)
    return out.getvalue()


def tiff(width: int, height: int) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8),
            (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 100)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + b"\0" * 100


def gif(width: int, height: int) -> bytes:
    small = bytearray(saved("GIF"))
    small[6:10] = struct.pack("<HH", width, height)
    return bytes(small)


def webp(width: int, height: int) -> bytes:
    extended = (
        b"VP8X"
        + struct.pack("<I", 10)
        + b"\0" * 4
        + struct.pack("<I", width - 1)[:3]
        + struct.pack("<I", height - 1)[:3]
    )
    body = b"WEBP" + extended + saved("WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


ZEROS = zlib.compress(b"\0" * (200 * 2**20), 9)
BOMBS = {
    "PNG of 100,000 × 100,000": (png(100_000, 100_000), (422,)),
    "PNG of 2³¹ − 1 squared": (png(2**31 - 1, 2**31 - 1, data=b"x"), (422,)),
    "PNG of 1 × 99,999,999": (png(1, 99_999_999), (200, 422)),
    "PNG whose pixels are 200 MB more than it has": (png(64, 64, data=ZEROS), (200, 422)),
    "PNG with 200 MB in zTXt": (png(8, 8, chunk(b"zTXt", b"a\0\0" + ZEROS)), (200, 422)),
    "PNG with 200 MB in iTXt": (png(8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + ZEROS)), (200, 422)),
    "PNG with 200 MB in iCCP": (png(8, 8, chunk(b"iCCP", b"a\0\0" + ZEROS)), (200, 422)),
    "PNG with 20,000 text chunks": (png(8, 8, *[chunk(b"tEXt", b"a\0" + b"b" * 90)] * 20_000), (200, 422)),
    "GIF of 65,535 × 65,535": (gif(65_535, 65_535), (422,)),
    "GIF of 60,000 × 1,600": (gif(60_000, 1_600), (200, 422)),
    "WebP of 16,383 × 16,383": (webp(16_383, 16_383), (422,)),
    "WebP of 2²⁴ squared": (webp(2**24, 2**24), (422,)),
    "TIFF of 2³² − 1 squared": (tiff(2**32 - 1, 2**32 - 1), (422,)),
    "TIFF of 90,000 × 1,000 with 100 bytes": (tiff(90_000, 1_000), (200, 422)),
    "TIFF whose directory is its own next": (tiff(4, 4)[:118] + struct.pack("<I", 8) + b"\0" * 100, (200, 422)),
    "BMP of 2³¹ − 1 squared": (b"BM" + struct.pack("<IIIIiiHHIIiiII", 1000, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0), (422,)),
    "PPM of 10¹² pixels": (b"P6 1000000 1000000 255\n" + b"x" * 100, (422,)),
    "PPM with a width of a million digits": (b"P6 " + b"9" * 10**6 + b" 1 255\n", (422,)),
    "TGA of 65,535 × 65,535": (b"\0\0\x02" + b"\0" * 9 + struct.pack("<HHBB", 65_535, 65_535, 24, 0), (422,)),
    "ICO of 60,000 entries": (b"\0\0\1\0" + struct.pack("<H", 60_000) + b"\1\1\0\0\1\0 \0\4\0\0\0\x16\0\0\0" * 60_000, (200, 422)),
    "animation of 500 frames": (saved("GIF", save_all=True, append_images=[Image.new("RGB", (40, 30), (n % 256, n // 256, 0)) for n in range(500)]), (200,)),
    "animation in PNG": (saved("PNG", save_all=True, append_images=[Image.new("RGB", (40, 30), "red")] * 50), (200,)),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_decompression_bombs(client: httpx.Client, name: str) -> None:
    data, statuses = BOMBS[name]
    said(picture(client, data), *statuses)


HTML, ZIP = b"<html><script>alert(1)</script>", b"PK\3\4" + b"\0" * 40
POLYGLOTS = {
    "JPEG and a script": (saved("JPEG") + HTML, (200,)),
    "PNG and an archive": (saved("PNG") + ZIP, (200,)),
    "GIF and JavaScript": (saved("GIF")[:6] + b"/*" + saved("GIF")[8:] + b"*/=1;alert(1)", (200, 422)),
    "JPEG and PNG": (saved("JPEG") + saved("PNG"), (200,)),
    "a script and a JPEG": (HTML + saved("JPEG"), (422,)),
    "PDF": (b"%PDF-1.4\n" + saved("PNG"), (422,)),
    "PostScript that runs commands": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n", (422,)),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', (422,)),
    "ImageMagick's MVG": (b"push graphic-context\nviewbox 0 0 9 9\nimage over 0,0 0,0 'https://x/'\n", (422,)),
    "ELF": (b"\x7fELF" + b"\0" * 200, (422,)),
    "nothing but zeros": (b"\0" * 10_000, (422,)),
    "WebP that is AVI": (b"RIFF\0\1\0\0AVI LIST" + b"\0" * 100, (422,)),
    "JPEG with 300 kB of EXIF that loops": (saved("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0" + b"\0" * 60_000), (200, 422)),
}  # fmt: skip


@pytest.mark.parametrize("name", POLYGLOTS)
def test_polyglots_and_what_is_no_picture(client: httpx.Client, name: str) -> None:
    data, statuses = POLYGLOTS[name]
    said(picture(client, data), *statuses)


EACH = 60  # damaged files a format


def damaged(seed: int) -> list[tuple[str, bytes]]:
    """Truncated, flipped, spliced and grown files of every format that Pillow writes."""
    chance = random.Random(seed)
    files = []
    for format in (*FORMATS, "MPO", "EPS", "PCX", "SGI", "DDS", "ICNS", "IM", "QOI", "SPIDER"):
        whole = saved(format)
        for _ in range(EACH):
            data = bytearray(whole)
            kind = chance.random()
            if kind < 0.3:
                del data[chance.randrange(len(data)) :]
            if kind > 0.2:
                for _ in range(chance.choice((1, 1, 2, 8, 64))):
                    # Heads are where the harm is.
                    place = chance.randrange(min(len(data), 200) if chance.random() < 0.6 else len(data)) if data else 0
                    if data:
                        data[place] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
            if kind > 0.9 and data:
                place = chance.randrange(len(data))
                data[place:place] = data[: chance.randrange(len(data))]
            files.append((format, bytes(data)))
    return files


def test_a_thousand_damaged_pictures_are_answered_200_or_422(live_server: str) -> None:
    files = damaged(seed=20)
    assert len(files) > 1000
    seen: Counter[int] = Counter()

    async def main() -> None:
        queue = list(files)
        async with httpx.AsyncClient(base_url=live_server, timeout=60) as client:

            async def work() -> None:
                while queue:
                    format, data = queue.pop()
                    while True:
                        answer = await client.post(f"{SEARCH}?k=1", content=form(data), headers=FORM)
                        if answer.status_code != 503:  # a busy machine
                            break
                        await asyncio.sleep(0.2)
                    seen[answer.status_code] += 1
                    assert answer.status_code in (200, 422), (format, data[:400], answer.text)
                    if answer.status_code == 422:
                        assert answer.json()["detail"].startswith("image: ")

            await asyncio.gather(*(work() for _ in range(4)))

    asyncio.run(main())
    assert seen[200] > 100
    assert seen[422] > 250


FORM = {"Content-Type": "multipart/form-data; boundary=8f1c2b7e6d5a"}


def form(data: bytes) -> bytes:
    head = b'--8f1c2b7e6d5a\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    return head + data + b"\r\n--8f1c2b7e6d5a--\r\n"


FORMS = {
    "no boundary": (b"x", {"Content-Type": "multipart/form-data"}),
    "an empty boundary": (b"x", {"Content-Type": "multipart/form-data; boundary="}),
    "a boundary that never comes": (b"x" * 1000, FORM),
    "no end": (form(b"x")[:-20], FORM),
    "a header without an end": (b"--8f1c2b7e6d5a\r\n" + b"A" * 100_000, FORM),
    "a thousand headers": (b"--8f1c2b7e6d5a\r\n" + b"A: b\r\n" * 1000 + b"\r\nx\r\n--8f1c2b7e6d5a--", FORM),
    "a hundred fields": (
        b'--8f1c2b7e6d5a\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n' * 100 + b"--8f1c2b7e6d5a--", FORM),
    "two files": (form(b"x")[:-18] + form(b"y"), FORM),
    "a field of 2 MB": (
        b'--8f1c2b7e6d5a\r\nContent-Disposition: form-data; name="k"\r\n\r\n' + b"1" * 2**21 + b"\r\n--8f1c2b7e6d5a--", FORM),
    "a charset that is none": (
        b'--8f1c2b7e6d5a\r\nContent-Disposition: form-data; name="\xff\xfe"\r\n\r\nb\r\n--8f1c2b7e6d5a--',
        {"Content-Type": "multipart/form-data; charset=nonsense; boundary=8f1c2b7e6d5a"}),
    "a charset that always fails": (
        form(b"x"), {"Content-Type": "multipart/form-data; charset=undefined; boundary=8f1c2b7e6d5a"}),
    "a charset that takes ever longer": (
        b'--8f1c2b7e6d5a\r\nContent-Disposition: form-data; name="k-"\r\n\r\n' + b"a9" * 200_000 + b"\r\n--8f1c2b7e6d5a--",
        {"Content-Type": "multipart/form-data; charset=punycode; boundary=8f1c2b7e6d5a"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_forms_that_are_none(client: httpx.Client, name: str) -> None:
    body, headers = FORMS[name]
    said(client.post(SEARCH, content=body, headers=headers), 400, 422)


# --- texts and ids ----------------------------------------------------------------------------------------------------

TEXTS = {
    "every control character": "".join(map(chr, [*range(1, 32), 127, *range(128, 160)])),
    "a null in the middle": "a\0b",
    "right to left": "\u202eabc\u202d \u2066x\u2069 مرحبا שלום",
    "combining marks": "e" + "\u0301" * 5000,
    "zero width": "\u200b\u200d\ufeff" * 3000,
    "emoji families": "👨‍👩‍👧‍👦🏳️‍🌈" * 500,
    "beyond the BMP": "𝒳𐍈𠜎" * 1000,
    "no characters": "\ufffe\uffff\U0010ffff\ue000",
    "ligatures that grow": "ﷺ" * 2000,
    "normalisation that grows": unicodedata.normalize("NFC", "ΐ") * 3000,
    "spaces of all kinds": " \t\u00a0\u2003\u3000\u2028\u2029" * 100,
    "nothing": "",
    "one space": " ",
    "entities": "&amp;" * 1000 + "&#x110000;&#0;",
    "10,000 of one letter": "x" * 10_000,
    "10,000 ideographs": "红" * 10_000,
    "special tokens": "<|startoftext|><|endoftext|><start_of_text>" * 50,
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts(client: httpx.Client, name: str) -> None:
    text = TEXTS[name]
    body = json.dumps({"query": {"text": text}, "k": 1}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    said(client.post(SEARCH, content=body), 200)
    said(client.post("/v1/embeddings", json={"input": [text]}), 200)
    if len(text) < 1000:
        said(client.get(SEARCH, params={"text": text, "k": 1}), 200)


@pytest.mark.parametrize(
    "raw", [b'"\\ud800"', b'"\\udc00\\ud800"', b'"\xed\xa0\x80"', b'"\xff"', b'"\xc0\xaf"', b'"\\u12"', b'"\x01"']
)
def test_texts_that_are_not_unicode(client: httpx.Client, raw: bytes) -> None:
    said(client.post(SEARCH, content=b'{"query": {"text": ' + raw + b"}}"), 400, 422)


IDS = ["%00", "..%2f..%2fetc%2fpasswd", "%ff%fe", "a%0d%0aSet-Cookie: x=1", "%F0%9F%98%80", "%ed%a0%80", "x" * 8000, "%E2%80%AE", "'; DROP TABLE images; --"]  # fmt: skip


@pytest.mark.parametrize("id", IDS)
def test_ids(client: httpx.Client, id: str) -> None:
    for rest in ("", "/thumbnail", "/content"):
        answer = client.get(f"/v1/images/{id}{rest}")
        said(answer, 404, 422)
        assert "set-cookie" not in answer.headers
    said(client.get(f"{SEARCH}?image_id={id}"), 404, 422)


def test_an_id_in_json_may_be_anything(client: httpx.Client) -> None:
    for id in TEXTS.values():
        said(client.post(SEARCH, json={"query": {"image": {"id": id}}}), 404)


# --- JSON -------------------------------------------------------------------------------------------------------------

DEEP = 100_000
JSONS = {
    "arrays 100,000 deep": (b'{"query": ' + b"[" * DEEP + b"]" * DEEP + b"}", (400, 422)),
    "objects 100,000 deep": (b'{"filter": ' + b'{"$not":' * DEEP + b"1" + b"}" * DEEP + b"}", (400, 422)),
    "a filter 150 deep": (b'{"query":{"text":"x"},"filter":' + b'{"$not":' * 150 + b'{"count":1}' + b"}" * 150 + b"}", (422,)),
    "a million unknown keys": (b'{"query":{"text":"x"},' + b",".join(b'"k%d":1' % n for n in range(200_000)) + b"}", (422,)),
    "a million nulls": (b'{"query":{"text":"x"},"include":[' + b"null," * 700_000 + b"null]}", (422,)),
    "a long number": (b'{"query":{"text":"x"},"k":' + b"9" * 1_000_000 + b"}", (400, 422)),
    "a long fraction": (b'{"query":{"text":"x"},"min_score":0.' + b"9" * 1_000_000 + b"}", (200, 400, 422)),
    "a key twice": (b'{"query":{"text":"x"},"k":1,"k":2}', (200, 422)),
    "a query twice": (b'{"query":{"text":"x"},"query":{"text":"y"},"k":1}', (200, 422)),
    "a key with a null": (b'{"query":{"text":"x"},"\\u0000":1}', (422,)),
    "a prototype": (b'{"query":{"text":"x"},"__proto__":{"k":1}}', (422,)),
    "a byte order mark": (b'\xef\xbb\xbf{"query":{"text":"x"}}', (200, 400)),
    "UTF-16": ('{"query":{"text":"x"}}'.encode("utf-16"), (400,)),
    "two values": (b'{"query":{"text":"x"}}{"query":{"text":"x"}}', (400,)),
    "a comment": (b'{"query":{"text":"x"}/**/}', (400,)),
    "1,025 parts": (json.dumps({"query": [{"text": "x"}] * 1025}).encode(), (422,)),
    "64 queries of 17 parts": (json.dumps({"queries": [[{"text": "x"}] * 17] * 64}).encode(), (422,)),
    "a vector of 10⁵": (json.dumps({"query": {"vector": [0.5] * 100_000}}).encode(), (422,)),
}  # fmt: skip


@pytest.mark.parametrize("name", JSONS)
def test_json(client: httpx.Client, name: str) -> None:
    body, statuses = JSONS[name]
    said(client.post(SEARCH, content=body), *statuses)
    said(client.post("/v1/rank", content=body), 400, 422)
    said(client.post("/v1/embeddings", content=body), 400, 422)


NUMBERS = ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "-0", "-0.0", "9223372036854775807", "9223372036854775808",
           "-9223372036854775809", "1e-400", "1e308", "0.1", "true", "null", '"1"', "1E+2", "00", "+1", ".5", "0x10"]  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("field", ["k", "offset", "min_score", "weight", "filter", "vector"])
def test_numbers_at_their_limits(client: httpx.Client, number: str, field: str) -> None:
    body = {
        "weight": f'{{"query": [{{"text": "x", "weight": {number}}}, {{"text": "y"}}]}}',
        "filter": f'{{"query": {{"text": "x"}}, "filter": {{"count": {{"$gte": {number}}}}}}}',
        "vector": f'{{"query": {{"vector": [{number}, {",".join(["1"] * 255)}]}}}}',
    }.get(field, f'{{"query": {{"text": "x"}}, "{field}": {number}}}')
    said(client.post(SEARCH, content=body.encode()), 200, 400, 422)
    if field in ("k", "offset", "min_score"):
        said(client.get(SEARCH, params={"text": "x", field: number.strip('"')}), 200, 422)


def nested(depth: int) -> dict[str, Any]:
    return {"$not": nested(depth - 1)} if depth else {"count": 1}


FILTERS: dict[str, Any] = {
    "too deep": nested(30),
    "too many conditions": {"$and": [{"count": 1}] * 5000},
    "too many in one list": {"count": {"$in": list(range(100_000))}},
    "wide and deep": {"$or": [{"$and": [{"$or": [{"count": n}] * 10} for n in range(10)]}] * 10},
    "an operator that is none": {"count": {"$where": "sleep(10)"}},
    "a pattern": {"background": {"$regex": "(a+)+$"}},
    "a name of 100,000 letters": {"x" * 100_000: 1},
    "a name that is an operator": {"$gt": 1},
    "no conditions": {},
    "an empty $or": {"$or": []},
    "mixed types": {"count": {"$in": [1, "1", None, True, [1], {}]}},
    "a number too large": {"count": 2**63},
    "a number far too large": {"count": 10**400},
    "a text of a megabyte": {"background": "x" * 2**20},
    "unpaired": {"background": "\ud800"},
}  # fmt: skip


@pytest.mark.parametrize("name", FILTERS)
def test_filters(client: httpx.Client, name: str) -> None:
    body = json.dumps({"query": {"text": "x"}, "k": 1, "filter": FILTERS[name]}).encode()
    said(client.post(SEARCH, content=body), 200, 400, 422)
    if len(body) < 2000:
        said(client.get(SEARCH, params={"text": "x", "filter": json.dumps(FILTERS[name])}), 200, 422)


@pytest.mark.parametrize("query", ["text=x&k=1&k=2", "text=x&k=", "text=%ff", "text=x&nothing=1", "text=" + "x" * 20_000, "text=x&include=metadata,nothing", "text=x&exact=maybe", "text=x&filter=[]", "text=x&filter=" + "[" * 9000])  # fmt: skip
def test_query_strings(client: httpx.Client, query: str) -> None:
    said(client.get(f"{SEARCH}?{query}"), 200, 422)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "QUERY"])
def test_other_methods_are_405_and_say_which_are_allowed(client: httpx.Client, method: str) -> None:
    for path, allowed in ((SEARCH, {"GET", "POST"}), ("/v1/embeddings", {"POST"}), ("/v1/index", {"GET"})):
        answer = client.request(method, path)
        if method not in allowed:
            assert answer.status_code == 405, (method, path)
            assert set(answer.headers["allow"].replace(" ", "").split(",")) == allowed


def test_a_body_of_a_million_errors_does_not_hold_up_the_others(client: httpx.Client) -> None:
    for body in (b'{"query":{"text":"x"},"include":[' + b"1," * 1_900_000 + b"1]}", JSONS["a million unknown keys"][0]):
        began = time.perf_counter()
        said(client.post(SEARCH, content=body), 422)
        assert time.perf_counter() - began < 1.5


def test_the_page_and_the_corpus_do_not_leave_their_folders(client: httpx.Client) -> None:
    for path in (
        "/page/../app.py",
        "/page/%2e%2e/app.py",
        "/page/..%2fapp.py",
        "/page//etc/passwd",
        "/page/%00",
        "/page/" + "a" * 5000,
    ):
        assert client.get(path).status_code in (404, 400), path


def test_nothing_was_an_error_of_the_service(client: httpx.Client, scenes: Path) -> None:
    lines = client.get("/metrics").text.splitlines()
    failed = [line for line in lines if line.startswith("crossmodal_requests_total") and 'status="500"' in line]
    assert failed == []
    refused = [line for line in lines if line.startswith('crossmodal_refusals_total{reason="invalid"}')]
    assert float(refused[0].rsplit(" ", 1)[1]) > 100
