"""`crossmodal index build` of a table on a web server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image

from corpus import files
from tests.crossmodal.command import fails
from tests.crossmodal.command import run_here as run


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def host(scenes: Path) -> Iterator[str]:
    """The folder of the scenes, served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(scenes.parent)))
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_table_on_the_web(tmp_path: Path, scenes: Path, host: str) -> None:
    built = run("index", "build", f"{host}/{scenes.name}", "--out", tmp_path, "--json")
    assert built.returncode == 0, built.stderr
    report = json.loads(built.stdout)
    assert (report["images"], report["rejected"]) == (60, 0)
    manifest = json.loads((tmp_path / "snapshots" / report["snapshot"] / "manifest.json").read_text())
    assert manifest["source"] == host
    uri = json.loads(scenes.read_text("utf-8").splitlines()[0])["image"]
    assert files.read(manifest["source"], uri) == (scenes.parent / uri).read_bytes()


def test_where_it_is_read_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "b.heic").write_bytes(b"ftypheic")
    built = run("index", "build", tmp_path / "photos", "--out", tmp_path / "index")
    said = re.search(r"1 pictures .* 1 rejected \((.*)\)", built.stdout)
    assert said, built.stderr
    assert '"b.heic"' in Path(said[1]).read_text("utf-8")


def test_an_approximate_index_shows_and_draws_its_curves(tmp_path: Path, scenes: Path) -> None:
    built = run("index", "build", scenes, "--out", tmp_path / "index", "--index-type", "HNSW8", "--memory", "1GB")
    assert built.returncode == 0, built.stderr
    picture = tmp_path / "curve.png"
    shown = run("index", "info", tmp_path / "index", "--plot", picture)
    assert shown.returncode == 0, shown.stderr
    assert "asked with texts" in shown.stdout
    assert "efSearch 16" in shown.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = run("search", tmp_path / "index", "--text", "a star", "--params", '{"efSearch": 40}', "--json")
    assert len(json.loads(found.stdout)["hits"]) == 10, found.stderr
    for option, value, said in (
        ("--params", '{"efSearch": 1000000000}', "from 1 to 10,000"),
        ("--params", "{", "--params: not JSON"),
        ("--params", '{"efSearch": "x"}', "params.efSearch: Input should be a valid integer"),
        ("--filter", "[]", "error: filter: Input should be a valid dictionary"),
    ):
        fails(1, "search", tmp_path / "index", "--text", "a star", option, value, says=said)


def test_bad_index_options(tmp_path: Path, scenes: Path, index: Path) -> None:
    for option, value, code, said in (
        ("--index-type", "IVF0,Nonsense", 1, "IVF0,Nonsense"),
        ("--memory", "lots", 2, "unit"),
        ("--target-latency", "5", 2, "unit"),
        ("--ray-workers", "2", 2, "go with --engine ray"),
        ("--decode", "fast", 2, "neither cpu nor gpu"),
        ("--decode", "gpu", 1, "needs a GPU"),
        ("--device", "cpu,gpu", 1, "device 'gpu' is not one of auto"),
    ):
        fails(code, "index", "build", scenes, "--out", tmp_path, option, value, says=said)
    fails(1, "index", "info", index, "--plot", tmp_path / "curve.png", says="no curve")


def test_the_device_is_read_from_the_environment(tmp_path: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSMODAL_DEVICE", "cuda")  # as the GPU image says, so that nothing falls back to the CPU
    fails(
        1, "index", "build", scenes, "--out", tmp_path / "i", "--precision", "int8", says="leave runtime and device out"
    )
    assert not (tmp_path / "i").exists()
