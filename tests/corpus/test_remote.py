"""Sources elsewhere: fsspec's memory filesystem, and a web server on this machine."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus import SourceError, files, open_source, place_of, remote

FILES: dict[str, bytes] = {}  # of the server, by path
ASKED: list[tuple[str, str | None]] = []  # (path, range)


class Handler(BaseHTTPRequestHandler):
    """/files… with ranges, /whole… without, /private… forbidden."""

    def do_GET(self) -> None:
        path, wanted = self.path.partition("?")[0], self.headers.get("Range")
        ASKED.append((self.path, wanted))
        data = FILES.get(re.sub("^/(whole|private)/", "/files/", path))
        if data is None or path.startswith("/private"):
            self.send_response(404 if data is None else 403)
            self.end_headers()
            return
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted or "")
        if span and path.startswith("/files"):
            start, stop = int(span[1]), min(int(span[2]) + 1, len(data))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
            data = data[start:stop]
        else:
            self.send_response(200)
        self.send_header("ETag", f'"{len(data)}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    FILES.clear()
    ASKED.clear()
    yield
    fsspec.filesystem("memory").store.clear()
    fsspec.filesystem("memory").pseudo_dirs[:] = [""]


@pytest.fixture(params=["memory", "web"])
def place(request: pytest.FixtureRequest, host: str) -> tuple[str, Callable[[str, bytes], None]]:
    """A folder's address, and what puts a file into it."""
    if request.param == "web":
        return f"{host}/files/c", lambda name, data: FILES.__setitem__(f"/files/c/{name}", data)
    filesystem = fsspec.filesystem("memory")
    return "memory://bucket/c", lambda name, data: filesystem.pipe(f"/bucket/c/{name}", data)


def tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as shard:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
    return out.getvalue()


def table(kind: str) -> bytes:
    rows = [{"image": "i/a b%.png", "caption": "红色", "year": "1"}, {"image": "gone.png", "caption": "", "year": "2"}]
    if kind == "parquet":
        out = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), out)
        return out.getvalue()
    if kind == "jsonl":
        return "\n".join(map(json.dumps, rows)).encode()
    mark = "\t" if kind == "tsv" else ","
    return "\n".join(mark.join(line) for line in [rows[0].keys(), *(r.values() for r in rows)]).encode()


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_tables(place: tuple[str, Callable[[str, bytes], None]], kind: str) -> None:
    root, put = place
    put(f"t.{kind}", table(kind))
    put("i/a%20b%25.png" if root.startswith("http") else "i/a b%.png", b"picture")
    source = open_source(f"{root}/t.{kind}")
    assert source.root == root
    for _ in range(2):
        first, second = source.records()
        assert (first.uri, first.captions, first.metadata) == ("i/a b%.png", ("红色",), {"year": "1"})
        assert first.read() == b"picture" == files.read(source.root, first.uri)
        with pytest.raises((OSError, ValueError), match=r"no such file|answered 404"):
            second.read()
    if root.startswith("http"):
        assert [path for path, _ in ASKED].count(f"/files/c/t.{kind}") == 1
    else:
        assert first.stamp.startswith("7/")
        assert second.stamp == ""


def test_a_stamp_changes_with_the_file() -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe({"/c/a.png": b"1", "/c/t.csv": b"image\na.png\n"})
    before = [next(open_source(url).records()).stamp for url in ("memory://c", "memory://c/t.csv")]
    filesystem.pipe("/c/a.png", b"2")
    after = [next(open_source(url).records()).stamp for url in ("memory://c", "memory://c/t.csv")]
    assert not set(before) & set(after)


def test_a_folder() -> None:
    filesystem = fsspec.filesystem("memory")
    for name in ("b.JPG", "a/z.png", "a.png", "notes.txt", ".hidden.png", ".cache/x.png"):
        filesystem.pipe(f"/c/{name}", name.encode())
    filesystem.pipe("/captions.csv", b"image,caption\nb.JPG,a bee\n")
    for url in ("memory://c", "memory://c/"):
        source = open_source(url, "memory://captions.csv")
        assert (source.root, source.count) == ("memory://c", 3)
        assert [(r.uri, r.read(), r.captions) for r in source.records()] == [
            ("a.png", b"a.png", ()), ("a/z.png", b"a/z.png", ()), ("b.JPG", b"b.JPG", ("a bee",)),
        ]  # fmt: skip
    whole = open_source("memory://")
    assert [r.uri for r in whole.records()] == ["c/a.png", "c/a/z.png", "c/b.JPG"]
    assert files.read(whole.root, "c/a.png") == b"a.png"


def test_captions_elsewhere_for_a_folder_here(tmp_path: Path, host: str) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    FILES["/files/t.jsonl"] = b'{"image": "a.png", "caption": "one"}'
    (record,) = open_source(tmp_path, f"{host}/files/t.jsonl?token=1").records()
    assert record.captions == ("one",)


def test_a_shard(place: tuple[str, Callable[[str, bytes], None]]) -> None:
    root, put = place
    big = bytes(range(256)) * 8192  # 2 MiB: the reader must leap over it
    put("0.tar", tar({"1.png": big, "1.txt": b"one", "2#b.png": b"two", "2#b.json": b'{"caption": "zwei"}'}))
    source = open_source(f"{root}/0.tar")
    one, two = source.records()
    assert (source.root, one.uri, two.uri) == (root, "0.tar#1.png", "0.tar#2#b.png")
    assert (one.captions, two.captions) == (("one",), ("zwei",))
    assert (one.read(), two.read()) == (big, b"two")
    assert one.stamp == two.stamp != ""
    assert files.read(root, two.uri, two.offset, two.length) == b"two"


def test_a_folder_of_shards() -> None:
    whole = tar({"1.png": b"one", "2.png": b"two" * 1000})
    fsspec.filesystem("memory").pipe({"/s/1.tar": whole, "/s/0.tar": whole[:2000]})
    fsspec.filesystem("memory").pipe("/s/sub/x.txt", b"no picture")
    *_, broken, one, two = open_source("memory://s").records()
    assert (broken.uri, one.uri, two.uri) == ("0.tar", "1.tar#1.png", "1.tar#2.png")
    assert two.read() == b"two" * 1000
    with pytest.raises(ValueError, match="cut short"):
        broken.read()


def test_a_folder_is_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/s/0.tar": tar({"1.png": b"one"}), "/s/sub/x.txt": b"no picture"})
    asked: list[str] = []

    def noted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **options: asked.append(name) or real(*arguments, **options)  # type: ignore[func-returns-value]

    for name in ("ls", "find"):
        monkeypatch.setattr(memory, name, noted(name, getattr(memory, name)))
    assert len(list(open_source("memory://s").records())) == 1
    assert asked == ["find"]


def test_addresses_in_a_table_here(tmp_path: Path, host: str) -> None:
    fsspec.filesystem("memory").pipe("/b/a.png", b"memory")
    FILES["/files/a.png"] = b"web"
    images = ["memory://b/a.png", f"{host}/files/a.png", "file:///etc/passwd", "foo://x/y.png", "memory://b/no.png"]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"image": image}) for image in images))
    elsewhere, web, *bad = open_source(tmp_path / "t.jsonl").records()
    assert (elsewhere.uri, elsewhere.read(), web.read()) == (images[0], b"memory", b"web")
    assert elsewhere.stamp.startswith("6/")
    for record, reason in zip(bad, ("named by its path", "no protocol", "no such file"), strict=True):
        with pytest.raises((OSError, ValueError), match=reason):
            record.read()
    with pytest.raises(PermissionError, match="leads out"):
        files.read(tmp_path, images[0])
    assert files.read(tmp_path, images[0], urls=True) == b"memory"
    assert files.read("memory://b", images[0]) == b"memory"


@pytest.mark.parametrize("image", ["../secret.png", "/secret.png", "a/../../secret.png", "file:///secret.png"])
def test_a_table_elsewhere_does_not_lead_out_of_its_folder(image: str) -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe({"/secret.png": b"secret", "/c/t.jsonl": json.dumps({"image": image}).encode()})
    (record,) = open_source("memory://c/t.jsonl").records()
    with pytest.raises((PermissionError, ValueError), match=r"leads out|named by its path"):
        record.read()


@pytest.mark.parametrize("urls", [False, True])
@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "x/../../secret", "link", "file:///etc/passwd", "local:///etc/passwd"]
)
def test_reading_again_stays_in_the_root(tmp_path: Path, name: str, urls: bool) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match=r"leads out|No such file"):
        files.read(tmp_path / "c", name, urls=urls)
    fsspec.filesystem("memory").pipe({"/secret": b"secret", "/c/a": b"a"})
    with pytest.raises(OSError, match=r"leads out|no such file"):
        files.read("memory://c", name, urls=urls)
    for url in ("memory://c/../secret", "memory://secret", "memory://c/%2e%2e/secret"):
        with pytest.raises(PermissionError, match="leads out"):
            files.read("memory://c", url)


def test_reading_again_here(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"0123456789")
    assert files.read(tmp_path, "a.png") == files.read(f"file://{tmp_path}", "a.png") == b"0123456789"
    assert files.read(str(tmp_path), "a.png", 3, 4) == b"3456"
    with pytest.raises(ValueError, match="cut short"):
        files.read(tmp_path, "a.png", 8, 4)
    with pytest.raises(FileNotFoundError):
        files.read(tmp_path, "b.png")
    with pytest.raises(ValueError, match="not a regular file"):
        files.read(tmp_path, ".")


def test_what_cannot_be_a_source(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FILES.update({"/files/t.csv": b"image\na.png\n", "/files/s.tar": tar({"1.png": b"one"})})
    fsspec.filesystem("memory").pipe({"/empty/notes.txt": b"", "/t.csv": b"path\na"})
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setattr("corpus.web._PAUSES", ())
    for url, says in {
        "foo://bucket/t.csv": "foo:// is no protocol",
        "s3://bucket/t.csv": "Install s3fs",
        "memory://nowhere": "no such file or folder",
        "memory://nowhere/t.csv": "no such file or folder",
        "memory://empty": "no pictures",
        "memory://t.csv": "no column `image`",
        "memory://empty/notes.txt": "a table ends in",
        "zip://a::memory://b": "chained",
        "sftp://me:pw@host/x.csv": "password belongs",
        f"{host}/files/no.csv": "answered 404",
        f"{host}/private/t.csv": r"403 \(no permission\)",
        f"{host}/files/": "a folder of the web cannot be listed",
        f"{host}/files/s.tar?token=1": "holds no query",
        "http://127.0.0.1:1/t.csv": "could not be fetched",
    }.items():
        with pytest.raises(SourceError, match=says) as caught:
            open_source(url)
        assert url.split("@")[-1].split("?")[0] in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "me:pw" not in str(caught.value)
    with pytest.raises(SourceError, match="--captions goes with a folder"):
        open_source(f"{host}/files/t.csv", "memory://t.csv")


def test_a_filesystem_that_denies() -> None:
    class Denied(type(fsspec.filesystem("memory"))):  # type: ignore[misc]
        protocol, cachable = "denied", False

        def info(self, path: str, **_: object) -> dict[str, object]:
            raise PermissionError(path)

    fsspec.register_implementation("denied", Denied, clobber=True)
    with pytest.raises(SourceError, match=r"denied://bucket/t.csv: no permission to read it"):
        open_source("denied://bucket/t.csv")


def test_an_empty_file_where_no_range_of_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem = fsspec.filesystem("memory")
    give = type(filesystem).cat_file

    def strict(self: Any, path: str, start: int = 0, end: int | None = None, **_: object) -> bytes:
        if start >= self.info(path)["size"]:
            raise OSError("the requested range is not satisfiable")
        return give(self, path, start, end)  # type: ignore[no-any-return]

    monkeypatch.setattr(type(filesystem), "cat_file", strict)
    filesystem.pipe({"/c/empty.png": b"", "/c/full.png": b"x"})
    assert (remote.read("memory://c/empty.png"), remote.read("memory://c/full.png")) == (b"", b"x")
    with pytest.raises(OSError, match="not satisfiable"):
        remote.read("memory://c/full.png", 5, 1)


def test_a_file_too_large(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr(remote, "MAX_BYTES", 10)
    monkeypatch.setattr("corpus.web.MAX_BYTES", 10)
    fsspec.filesystem("memory").pipe({"/c/ten": b"x" * 10, "/c/eleven": b"x" * 11})
    FILES["/files/eleven"] = b"x" * 11
    assert len(remote.read("memory://c/ten")) == 10
    for url in ("memory://c/eleven", f"{host}/files/eleven"):
        with pytest.raises(ValueError, match="more than the 10 bytes allowed"):
            remote.read(url)
    with pytest.raises(ValueError, match="11 bytes, more than the 10 allowed"):
        remote.read("memory://c/eleven", 0, 11)


def test_a_host_without_ranges(host: str) -> None:
    FILES["/files/s.tar"] = tar({"1.png": b"one"})
    FILES["/files/t.csv"] = b"image\na.png\n"
    FILES["/files/a.png"] = b"picture"
    (record,) = open_source(f"{host}/whole/s.tar").records()
    with pytest.raises(ValueError, match="does not answer ranged requests"):
        record.read()
    (record,) = open_source(f"{host}/whole/t.csv").records()
    assert record.read() == b"picture"


def test_local_files_import_neither_fsspec_nor_httpx(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "t.csv").write_text("image\na.png\n")
    code = (
        "import sys; from corpus import open_source\n"
        "for path in sys.argv[1:]: assert [r.read() for r in open_source(path).records()] == [b'x']\n"
        "assert not {'fsspec', 'httpx', 'pyarrow'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), str(tmp_path / "t.csv")], check=True)


def test_what_names_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_of("x") == place_of(f"file://{tmp_path}/x") == str(tmp_path / "x")
    assert place_of("https://h/d/t.csv?signature=secret") == "https://h/d/t.csv"
    assert place_of("s3://b/what?.csv") == "s3://b/what?.csv"
    assert not remote.is_remote("c://x")
